"""AMC 2023: 40 problems of the AMC 12 with integer answers, choices removed (as in QwenLM/Qwen2.5-Math).

Schema (split test): `question`, `answer` (a float), `id`, `url`; other copies have `problem`. The commit was not read from the
hub here, and the copy on the hub names no licence.
"""

from __future__ import annotations

from tasks.answers.gold import final_answer, written
from tasks.benchmarks.base import Benchmark, Cells, HubData, Item, Part, text_id
from tasks.rows import Tier


def read(cells: Cells, part: Part) -> Item:
    """Return the problem with its answer, without `.0`."""
    text = written(cells["text"])
    return Item(id=written(cells["id"]) or text_id(text), text=text, answer=final_answer(cells["answer"]))


BENCHMARK = Benchmark(
    name="amc2023",
    title="AMC 2023",
    data=HubData(
        parts=(Part(hub_id="math-ai/amc23", split="test", revision="80815d37005feb82cd7f8fbc6901d5d3eff43057"),),
        columns={"text": ("question", "problem"), "answer": ("answer",), "id": ("id",)},
        required=("text", "answer"), read=read,
    ),
    protocols=("avg8", "passk"),
    files=("amc23",),
    problems=40,
    tier=Tier.COMPETITION,
    lineage="AMC 12 A and B of 2023; the seed source `numina_math_cot` contains AMC problems",
)  # fmt: skip
