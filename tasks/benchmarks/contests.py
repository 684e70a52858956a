"""The benchmarks that MathArena publishes, one data set per contest (Balunovic et al., 2025).

Schema (the one split train): `problem_idx` (integer), `problem`, `answer` (integer for AIME, string for HMMT). Licence CC
BY-NC-SA 4.0. The commits are those of public code; they were not read from the hub here. A problem's id is the contest and the
number, as in the seed source `matharena`, so that descendants are found by lineage.
"""

from __future__ import annotations

from tasks.answers.gold import whole_number, written
from tasks.benchmarks.base import Benchmark, Cells, HubData, Item, Part, text_id
from tasks.rows import Tier


def contest(
    name: str,
    title: str,
    commits: dict[str, str],
    *,
    protocols: tuple[str, ...],
    files: tuple[str, ...],
    problems: int,
) -> Benchmark:
    """Return the benchmark of some of MathArena's data sets, given as {name: commit}."""
    parts = tuple(
        Part(hub_id=f"MathArena/{one}", split="train", revision=revision, files=(one,))
        for one, revision in commits.items()
    )
    return Benchmark(
        name=name, title=title, protocols=protocols, files=files, problems=problems, tier=Tier.COMPETITION,
        data=HubData(
            parts=parts, required=("text", "answer"), read=_read,
            columns={
                "text": ("problem", "question"), "answer": ("answer",), "number": ("problem_idx",), "id": ("id", "ID"),
            },
        ),
        licence="cc-by-nc-sa-4.0", lineage="the seed source `matharena` contains the same problems",
    )  # fmt: skip


def _read(cells: Cells, part: Part) -> Item:
    """Return the problem with its answer; an integer has no leading zeros."""
    text, number = written(cells["text"]), written(cells["number"])
    name = f"{part.hub_id.partition('/')[2]}/{number}" if number else written(cells["id"])
    return Item(id=name or text_id(text), text=text, answer=whole_number(cells["answer"]))
