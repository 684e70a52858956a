r"""Minerva Math: 272 problems of MIT OpenCourseWare in the sciences (Lewkowycz et al., 2022, arXiv 2206.14858).

Schema (split test): `question`, `answer`; the copy in QwenLM/Qwen2.5-Math has `problem` and `solution` with the answer in its
last \boxed{}. Many answers are rounded decimals, numbers in scientific notation such as 4.5e33, or expressions. The commit was
not read from the hub here, and the copy on the hub names no licence.
"""

from __future__ import annotations

from tasks.answers.extraction import extract_answer
from tasks.answers.gold import final_answer, written
from tasks.benchmarks.base import Benchmark, Cells, HubData, Item, Part, text_id


def read(cells: Cells, part: Part) -> Item:
    """Return the problem with its answer, or the boxed answer of its solution."""
    text = written(cells["text"])
    answer = final_answer(cells["answer"]) or extract_answer(written(cells["solution"]))
    return Item(id=text_id(text), text=text, answer=answer)


BENCHMARK = Benchmark(
    name="minerva",
    title="Minerva Math",
    data=HubData(
        parts=(
            Part(hub_id="math-ai/minervamath", split="test", revision="ee46ddc498933b1977577953250ca5c66be64f96"),
        ),
        columns={"text": ("question", "problem"), "answer": ("answer",), "solution": ("solution",)},
        required=("text",), read=read,
    ),
    protocols=("avg8",),
    files=("minerva_math", "minervamath"),
    problems=272,
    lineage="course material of MIT; no seed source of the papers contains it",
)  # fmt: skip
