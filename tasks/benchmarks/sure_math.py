"""The test split of an exported dataset of this project (200 curated problems in the paper), given as its folder.

All configurations of the dataset are read: `default` and the flagged rows. A row without a ground truth is left out: a teacher's
majority answer is no gold answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.benchmarks.base import Benchmark, Item, OwnData
from tasks.errors import UserError
from tasks.rows import Tier
from tasks.storage.manifest import read_manifest
from tasks.storage.versions import read_examples


def read(path: Path | None) -> tuple[Sequence[Item], str]:
    """Return the problems of split test that have an answer, and the dataset's fingerprint."""
    if path is None:
        raise UserError(
            "benchmark sure_math needs the folder of an exported dataset: write BENCHMARKS=sure_math=output/mine/dataset"
        )
    manifest = read_manifest(path)
    rows = [
        Item(id=row.id, text=row.problem, answer=row.answer, group=row.tier.value)
        for row in read_examples(path, "test")
        if row.answer is not None
    ]
    if not rows:
        raise UserError(
            f"benchmark sure_math: split test of {path} has no problem with an answer: give a dataset with curated problems"
        )
    return rows, f"sure_math@{manifest.fingerprint}"


BENCHMARK = Benchmark(
    name="sure_math",
    title="SURE-Math test",
    data=OwnData(read=read),
    protocols=("pass1_greedy", "avg16"),
    tier=Tier.MEDIUM,
    licence="as in the dataset",
    lineage="curated problems, which are never evolved; they are compared with the training rows of the same build",
)
