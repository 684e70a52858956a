"""Stage aggregate: every source's problems become rows, curated ones first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from prompts import MAX_VALUE_CHARS
from tasks.core.config import AggregateSettings
from tasks.core.rows import Problem, Reason, Reject
from tasks.io.artifacts import Artifact
from tasks.seeds.registry import source_digest, source_problems
from tasks.stages.chunks import chunk, chunk_sizes
from tasks.stages.driver import Run, Shard, Stage, run_shards

VERSION = 1


def aggregate(run: Run) -> Artifact:
    """Problems of all sources. A text that stands twice is kept once, curated before seed, and the other has a reason:
    a seed equal to a held-out problem would carry it into training through its descendants."""
    settings, size = run.config.aggregate, run.config.run.shard_rows
    digests = {source.name: source_digest(source) for source in settings.sources}
    stage = Stage(
        name="aggregate", version=VERSION, unit="seeds and curated problems",
        settings={"aggregate": settings.identity(), "sources": digests, "shard_rows": size},
    )  # fmt: skip
    rows = cache(lambda: all_rows(settings))
    leaving = cache(lambda: too_long(rows()) | duplicates(rows()))

    def work(index: int, _at: object) -> Shard:
        first, part = index * size, chunk(rows(), size, index)
        rejects = [leaving()[first + offset] for offset in range(len(part)) if first + offset in leaving()]
        kept = [row for offset, row in enumerate(part) if first + offset not in leaving()]
        return Shard(incoming=len(part), tables={"problems": (Problem, kept), "rejects": (Reject, rejects)})

    return run_shards(run, stage, lambda: chunk_sizes(len(rows()), size), work)


def all_rows(settings: AggregateSettings) -> Sequence[Problem]:
    """Rows of every source in the order of the config, curated sources first."""
    sources = sorted(settings.sources, key=lambda source: source.role != "curated")
    return [row for source in sources for row in source_problems(source)]


def too_long(rows: Sequence[Problem]) -> dict[int, Reject]:
    """Position -> reject for every row that no prompt takes."""
    return {
        position: Reject(
            problem_id=row.id,
            stage="aggregate",
            reason=Reason.TOO_LONG,
            text=row.text[:2000],
            detail=f"{len(row.text):,} characters, a prompt takes {MAX_VALUE_CHARS:,}",
        )
        for position, row in enumerate(rows)
        if len(row.text) > MAX_VALUE_CHARS
    }


def duplicates(rows: Sequence[Problem]) -> dict[int, Reject]:
    """Position -> reject for every row whose text (case and spacing aside) stood earlier."""
    seen: dict[str, Problem] = {}
    rejected = {}
    for position, row in enumerate(rows):
        key = " ".join(row.text.lower().split())
        first = seen.setdefault(key, row)
        if first is not row:
            rejected[position] = Reject(
                problem_id=row.id, stage="aggregate", reason=Reason.EXACT_DUPLICATE,
                detail=f"same text as {first.id} ({first.source} {first.source_id})", text=row.text[:2000],
            )  # fmt: skip
    return rejected
