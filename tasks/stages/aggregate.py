"""Stage aggregate: read the problems of all sources, curated ones first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from prefect.logging import get_run_logger

from prompts import MAX_VALUE_CHARS
from tasks.core.config import AggregateSettings, Config
from tasks.core.rows import Problem, Reason, Reject
from tasks.io.artifacts import Artifact
from tasks.seeds.kinds import Loaded, SeedOutcome
from tasks.seeds.registry import load, source_digest
from tasks.stages.driver import Run, Shard, Stage, run_shards
from tasks.stages.outcomes import cut_outcomes, results_of, shard_of
from tasks.stages.pending import Pending, rows_digest

VERSION = 3


def aggregate(run: Run) -> Artifact:
    """Read the problems of all sources and reject duplicate texts.

    Of duplicate texts a curated problem is kept before a seed, since a seed equal to a held-out problem would leak it into
    training through its descendants. A text that is a benchmark problem in one source is marked as one in all sources.
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
        return flagged([row for source in loaded().values() for row in source.outcomes])

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


def aggregate_stage(config: Config) -> Stage:
    """Return what identifies the stage's output. Raises `UserError` if a source's data cannot be identified."""
    settings = config.aggregate
    digests = {source.name: source_digest(source) for source in settings.sources}
    return Stage(
        name="aggregate", version=VERSION, unit="seeds and curated problems",
        settings={},
        data={"aggregate": settings.identity(), "sources": digests, "shard_rows": config.run.shard_rows},
    )  # fmt: skip


def curated_first(settings: AggregateSettings) -> list[Any]:
    """Return the sources in the order of the config, curated ones first."""
    return sorted(settings.sources, key=lambda source: source.role != "curated")


def counts(name: str, loaded: Loaded) -> dict[str, Any]:
    """Return the counts of one source: rows read, problems, target (None: all), and rejected rows by reason."""
    dropped = Counter(str(row.reason) for row in loaded.outcomes if isinstance(row, Reject))
    return {
        "source": name,
        "seen": loaded.seen,
        "problems": loaded.problems,
        "target": loaded.target,
        "dropped": dict(sorted(dropped.items())),
    }


def account(name: str, loaded: Loaded) -> str:
    """Return the counts of one source as a log line, including a shortfall against its target."""
    numbers = counts(name, loaded)
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in numbers["dropped"].items()) or "none"
    short = f", {loaded.shortfall:,} fewer than its target of {loaded.target:,}" if loaded.shortfall else ""
    return f"{name}: {loaded.seen:,} rows read, {loaded.problems:,} problems{short}; rejected: {dropped}"


def flagged(rows: Sequence[SeedOutcome]) -> Sequence[SeedOutcome]:
    """Return the rows, with every problem marked as a benchmark problem if any copy of its text is one."""
    problems = [row for row in rows if isinstance(row, Problem)]
    benchmark = {text_key(row.text) for row in problems if row.benchmark_root}

    def marked(row: SeedOutcome) -> SeedOutcome:
        if isinstance(row, Problem) and not row.benchmark_root and text_key(row.text) in benchmark:
            return replace(row, benchmark_root=True)
        return row

    return [marked(row) for row in rows] if benchmark else rows


def text_key(text: str) -> str:
    """Return a key that is equal for texts that differ in case and spacing only."""
    return " ".join(text.lower().split())


def too_long(rows: Sequence[SeedOutcome]) -> dict[int, Reject]:
    """Return a reject, by position, for every problem that is too long for a prompt."""
    return {
        position: Reject(
            problem_id=row.id,
            stage="aggregate",
            reason=Reason.TOO_LONG,
            text=row.text[:2000],
            detail=f"{len(row.text):,} characters, a prompt takes {MAX_VALUE_CHARS:,}",
        )
        for position, row in enumerate(rows)
        if isinstance(row, Problem) and len(row.text) > MAX_VALUE_CHARS
    }


def duplicates(rows: Sequence[SeedOutcome]) -> dict[int, Reject]:
    """Return a reject, by position, for every problem whose text (ignoring case and spacing) occurred before."""
    seen: dict[str, Problem] = {}
    rejected = {}
    for position, row in enumerate(rows):
        if isinstance(row, Reject):
            continue
        first = seen.setdefault(text_key(row.text), row)
        if first is not row:
            rejected[position] = Reject(
                problem_id=row.id, stage="aggregate", reason=Reason.EXACT_DUPLICATE,
                detail=f"same text as {first.id} ({first.source} {first.source_id})", text=row.text[:2000],
            )  # fmt: skip
    return rejected
