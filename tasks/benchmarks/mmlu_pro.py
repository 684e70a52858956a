"""MMLU-Pro: 12,032 questions of 14 subjects with up to ten choices, 5-shot (Wang et al., 2024, arXiv 2406.01574).

Schema (splits test 12,032 and validation 70, five per subject): `question_id`, `question`, `options` (a list), `answer` (a
letter), `answer_index`, `cot_content` ("A: Let's think step by step. ... The answer is (I)."), `category`, `src`. Licence MIT.
The commit is the one that public evaluation code uses; it was not read from the hub here. Examples are the subject's five of
split validation, each as a turn of the chat (the authors write them into one text), with the letter in a box.
"""

from __future__ import annotations

from tasks.answers.choice import LETTERS, lettered
from tasks.answers.gold import written
from tasks.benchmarks.base import Benchmark, Cells, HubData, Item, Part, text_id


def _part(split: str) -> Part:
    return Part(hub_id="TIGER-Lab/MMLU-Pro", split=split, revision="3373e0b32277875b8db2aa555a333b78a08477ea")


def read(cells: Cells, part: Part) -> Item | str:
    """Return the question with its options, and the letter of the correct one."""
    text, letter = _question(cells), written(cells["answer"])
    if len(letter) != 1 or letter not in LETTERS[: len(cells["options"] or ())]:
        return "an answer that is none of the options"
    return Item(
        id=written(cells["id"]) or text_id(text), text=text, answer=letter, group=written(cells["group"])
    )


def example(cells: Cells) -> tuple[str, str]:
    """Return the question with its options, and the steps to the answer with its letter in a box."""
    steps = written(cells["steps"]).removeprefix("A: ")
    return _question(cells), f"{steps}\n\\boxed{{{written(cells['answer'])}}}"


def _question(cells: Cells) -> str:
    return lettered(written(cells["text"]), [written(option) for option in cells["options"] or ()])


BENCHMARK = Benchmark(
    name="mmlu_pro",
    title="MMLU-Pro",
    data=HubData(
        parts=(_part("test"),),
        columns={
            "text": ("question",), "options": ("options",), "answer": ("answer",), "id": ("question_id",),
            "group": ("category",), "steps": ("cot_content",),
        },
        required=("text", "options", "answer"), read=read, example_parts=(_part("validation"),), example=example,
    ),
    answer="choice",
    prompt="evaluation/choice",
    shots=5,
    protocols=("avg8",),
    problems=12_032,
    licence="mit",
    lineage="out of domain; its questions of mathematics are of textbooks and of MMLU",
)  # fmt: skip
