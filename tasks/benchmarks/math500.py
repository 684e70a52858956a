"""MATH-500: 500 test problems of MATH (Lightman et al., 2023, arXiv 2305.20050; Hendrycks et al., 2021).

Schema (split test): `problem`, `solution`, `answer`, `subject`, `level`, `unique_id` ("test/algebra/1.json"). Licence MIT. The
commit is the one that public code uses; it was not read from the hub here.
"""

from __future__ import annotations

from tasks.answers.gold import final_answer, written
from tasks.benchmarks.base import Benchmark, Cells, HubData, Item, Part, text_id
from tasks.rows import Tier


def read(cells: Cells, part: Part) -> Item:
    """Return the problem with its answer, or without an answer column the boxed one of its solution."""
    text = written(cells["text"])
    return Item(
        id=written(cells["id"]) or text_id(text), text=text, answer=final_answer(cells["answer"]),
        group=written(cells["subject"]),
    )  # fmt: skip


BENCHMARK = Benchmark(
    name="math500",
    title="MATH-500",
    data=HubData(
        parts=(
            Part(
                hub_id="HuggingFaceH4/MATH-500", split="test", revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            ),
        ),
        columns={
            "text": ("problem", "question"), "answer": ("answer", "solution"), "id": ("unique_id", "id"),
            "subject": ("subject", "type"),
        },
        required=("text", "answer"), read=read,
    ),
    protocols=("pass1_greedy", "avg16", "avg12", "avg8"),
    files=("math_500", "MATH-500"),
    problems=500,
    tier=Tier.MEDIUM,
    licence="mit",
    lineage="500 of the 5,000 test problems of MATH, which the seed source `math` contains",
)  # fmt: skip
