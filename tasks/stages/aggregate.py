"""Stage aggregate: read the problems of all sources, curated ones first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from prefect.logging import get_run_logger

from tasks.runtime.driver import Run, Shard, run_shards
from tasks.runtime.outcomes import cut_outcomes, results_of, shard_of
from tasks.runtime.pending import Pending, rows_digest
from tasks.runtime.stage import aggregate_stage
from tasks.seeds.intake import account, counts, curated_first, duplicates, flagged, too_long
from tasks.seeds.kinds import Loaded, SeedOutcome
from tasks.seeds.registry import load
from tasks.storage.artifacts import Artifact


def aggregate(run: Run) -> Artifact:
    """Read the problems of all sources and reject duplicate texts.

    Of duplicate texts a curated problem is kept before a seed, since a seed equal to a held-out problem would leak it into
    training through its descendants. A text that is a benchmark problem in one source is marked as one in all sources.
    Sources in `decontam.not_evaluated` have no benchmark problems.
    """
    settings = run.config.aggregate

    @cache
    def loaded() -> Mapping[str, Loaded]:
        found = {source.name: load(source) for source in curated_first(settings)}
        for name, source in found.items():
            get_run_logger().info("aggregate: %s", account(name, source))
        return found

    @cache
    def rows() -> Sequence[SeedOutcome]:
        found = [row for source in loaded().values() for row in source.outcomes]
        return flagged(found, run.config.decontam.not_evaluated)

    leaving = cache(lambda: too_long(rows()) | duplicates(rows()))
    sizes = cache(lambda: cut_outcomes(rows(), run.config.run.shard_rows))

    def results(index: int) -> list[SeedOutcome]:
        return results_of(rows(), leaving(), sizes(), index)

    def notes(index: int) -> dict[str, Any]:
        return {"sources": [counts(name, source) for name, source in loaded().items()]} if index == 0 else {}

    def work(index: int, _on_progress: object) -> Shard:
        return shard_of(results(index), notes(index))

    stage = aggregate_stage(run.config)
    pending = Pending(run.store, stage, lambda index: rows_digest([*results(index), notes(index)]))
    return run_shards(run, stage, sizes, work, pending)
