"""Stage rules: quick checks on the text of every candidate, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.rows import Problem, Reject
from tasks.core.rules import check
from tasks.io.artifacts import Artifact
from tasks.stages.chunks import shard_rows, shard_sizes
from tasks.stages.driver import Run, Shard, Stage, run_shards

VERSION = 1


def apply_rules(run: Run, rounds: Sequence[Artifact]) -> Artifact:
    """Candidates of all rounds that keep every rule of `tasks.core.rules`."""
    settings = run.config.rules
    stage = Stage(
        name="rules", version=VERSION, settings=settings.identity(), inputs=tuple(rounds), unit="candidates"
    )

    def parts() -> list[tuple[Artifact, int, int]]:
        return [
            (artifact, index, size)
            for artifact in rounds
            for index, size in enumerate(shard_sizes(run.store, artifact))
        ]

    def work(index: int, _at: object) -> Shard:
        artifact, shard, size = parts()[index]
        rows = shard_rows(run.store, artifact, shard, "problems", Problem)
        failures = [(row, check(row.text, settings)) for row in rows]
        kept = [row for row, failure in failures if failure is None]
        rejects = [
            Reject(
                problem_id=row.id,
                stage="rules",
                reason=failure.reason,
                detail=failure.detail,
                text=row.text[:2000],
            )
            for row, failure in failures
            if failure is not None
        ]
        return Shard(incoming=size, tables={"problems": (Problem, kept), "rejects": (Reject, rejects)})

    return run_shards(run, stage, lambda: [size for _, _, size in parts()], work)
