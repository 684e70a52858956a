"""GPQA-Diamond: 198 graduate-level questions in biology, physics and chemistry with four choices (Rein et al., 2023, arXiv
2311.12022).

Schema (configuration gpqa_diamond, split train; gated: accept its terms and set HF_TOKEN): `Question`, `Correct Answer`,
`Incorrect Answer 1` to `3`, `Subdomain`, `Record ID`. Licence CC BY 4.0. Hub id and schema are those of public evaluation code;
neither they nor a commit could be verified here, so a run reads the newest commit and records it. The order of the choices is
drawn once, from a hash of the question and the choice, so that every run asks the same.
"""

from __future__ import annotations

from tasks.answers.choice import LETTERS, lettered
from tasks.answers.gold import written
from tasks.benchmarks.base import Benchmark, Cells, HubData, Item, Part, text_id

_WRONG = ("wrong1", "wrong2", "wrong3")


def read(cells: Cells, part: Part) -> Item | str:
    """Return the question with its four choices in a fixed random order, and the letter of the correct one."""
    question, right = written(cells["text"]), written(cells["answer"])
    choices = [right, *(written(cells[name]) for name in _WRONG)]
    if not all(choices) or len(set(choices)) < len(choices):
        return "choices that are empty or equal"
    choices.sort(key=lambda choice: text_id(f"{question}\0{choice}"))
    return Item(
        id=written(cells["id"]) or text_id(question), text=lettered(question, choices),
        answer=LETTERS[choices.index(right)], group=written(cells["subdomain"]),
    )  # fmt: skip


BENCHMARK = Benchmark(
    name="gpqa_diamond",
    title="GPQA-Diamond",
    data=HubData(
        parts=(Part(hub_id="Idavidrein/gpqa", config="gpqa_diamond", split="train", files=("gpqa_diamond",)),),
        columns={
            "text": ("Question",), "answer": ("Correct Answer",), "wrong1": ("Incorrect Answer 1",),
            "wrong2": ("Incorrect Answer 2",), "wrong3": ("Incorrect Answer 3",), "id": ("Record ID",),
            "subdomain": ("Subdomain",),
        },
        required=("text", "answer", *_WRONG), read=read,
    ),
    answer="choice",
    prompt="evaluation/choice",
    protocols=("avg8",),
    problems=198,
    licence="cc-by-4.0",
    lineage="out of domain; no seed source of the papers contains it",
)  # fmt: skip
