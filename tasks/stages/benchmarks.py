"""Stage benchmarks: read the benchmark problems that the dataset is compared with. They are never evolved or exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from prefect.logging import get_run_logger

from tasks.config import Config
from tasks.errors import UserError
from tasks.rows import Reason, Reject
from tasks.runtime.chunks import chunk
from tasks.runtime.driver import Run, Shard, Stage, run_shards
from tasks.runtime.outcomes import cut_outcomes, shard_of
from tasks.seeds.intake import account, counts
from tasks.seeds.kinds import Loaded, SeedOutcome
from tasks.seeds.registry import load, source_digest
from tasks.storage.artifacts import Artifact

VERSION = 2


def read_benchmarks(run: Run) -> Artifact:
    """Read the problems of all `decontam.benchmarks`; the artifact is empty if there are none.

    Raises `UserError` for a benchmark without problems.
    """

    @cache
    def loaded() -> Mapping[str, Loaded]:
        found = {source.name: load(source) for source in run.config.decontam.benchmarks}
        for name, source in found.items():
            check_has_problems(name, source)
            get_run_logger().info("benchmarks: %s", account(name, source))
        return found

    rows = cache(lambda: without_repeats([row for source in loaded().values() for row in source.outcomes]))
    sizes = cache(lambda: cut_outcomes(rows(), run.config.run.shard_rows))

    def work(index: int, _on_progress: object) -> Shard:
        notes = {"sources": [counts(name, source) for name, source in loaded().items()]} if index == 0 else {}
        return shard_of(chunk(rows(), sizes(), index), notes)

    return run_shards(run, benchmarks_stage(run.config), sizes, work)


def benchmarks_stage(config: Config) -> Stage:
    """Return what identifies the stage's output. Raises `UserError` if a source's data cannot be identified."""
    sources = config.decontam.benchmarks
    return Stage(
        name="benchmarks", version=VERSION, unit="benchmark problem",
        settings={
            "benchmarks": [source.identity() for source in sources],
            "sources": {source.name: source_digest(source) for source in sources},
            "shard_rows": config.run.shard_rows,
        },
    )  # fmt: skip


def check_has_problems(name: str, loaded: Loaded) -> None:
    """Raise `UserError` for a benchmark without problems, with the counts of its rows."""
    if loaded.problems == 0:
        raise UserError(
            f"benchmark {account(name, loaded)}: correct or remove this entry of decontam.benchmarks"
        )


def without_repeats(rows: Sequence[SeedOutcome]) -> list[SeedOutcome]:
    """Return the rows, with a reject in place of every problem whose id occurred before."""
    seen: set[str] = set()
    result: list[SeedOutcome] = []
    for row in rows:
        if isinstance(row, Reject):
            result.append(row)
        elif row.id in seen:
            result.append(
                Reject(
                    problem_id=row.id, stage="benchmarks", reason=Reason.DUPLICATE_ID, text=row.text[:2000]
                )
            )
        else:
            seen.add(row.id)
            result.append(row)
    return result
