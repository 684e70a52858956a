"""Write rows that were read from a source or a dataset as shards of problems and rejects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tasks.rows import Problem, Reject
from tasks.runtime.chunks import bounds, cut, row_hashes
from tasks.runtime.driver import Shard
from tasks.seeds.kinds import SeedOutcome


def cut_outcomes(rows: Sequence[SeedOutcome], size: int) -> tuple[int, ...]:
    """Cut the rows into shards of at most `size` rows by their content, and return the sizes."""
    return cut(row_hashes(row.id if isinstance(row, Problem) else row.problem_id for row in rows), size)


def results_of(
    rows: Sequence[SeedOutcome], leaving: Mapping[int, Reject], sizes: Sequence[int], index: int
) -> list[SeedOutcome]:
    """Return the outcomes of one shard. `leaving` maps the position of a rejected problem to its reject."""
    start, stop = bounds(sizes, index)
    return [leaving.get(position, rows[position]) for position in range(start, stop)]


def rejected_by(stage: str, results: Sequence[SeedOutcome]) -> list[SeedOutcome]:
    """Return the rows with `stage` set to this stage in all rejects."""
    return [replace(row, stage=stage) if isinstance(row, Reject) else row for row in results]


def shard_of(results: Sequence[SeedOutcome], notes: Mapping[str, Any]) -> Shard:
    """Build a shard from its problems and rejects."""
    kept = [row for row in results if isinstance(row, Problem)]
    rejects = [row for row in results if isinstance(row, Reject)]
    tables = {"problems": (Problem, kept), "rejects": (Reject, rejects)}
    return Shard(incoming=len(results), tables=tables, notes=notes)
