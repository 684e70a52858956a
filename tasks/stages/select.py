"""Stage select: the evolved problems that go on, and the curated ones with their split."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from tasks.core.config import Config
from tasks.core.rows import Problem, Reason, Reject, Role, Selected
from tasks.core.selection import Candidate, split_curated
from tasks.core.selection import select as select_candidates
from tasks.io.artifacts import Artifact
from tasks.stages.chunks import chunk, chunk_sizes
from tasks.stages.driver import Run, Shard, Stage, run_shards

VERSION = 1


def select(run: Run, judged: Artifact, sources: Artifact) -> Artifact:
    """Evolved problems down to the target, stratified by tier and strategy, and every curated problem beside them."""
    settings, size = run.config.select, run.config.run.shard_rows
    curated_settings = {
        "test_problems": run.config.aggregate.test_problems,
        "split_seed": run.config.aggregate.split_seed,
    }
    stage = Stage(
        name="select", version=VERSION, unit="problems", inputs=(judged, sources),
        settings={"select": settings.identity(), "curated": curated_settings, "shard_rows": size},
    )  # fmt: skip

    @cache
    def rows() -> list[Problem]:
        fixed = run.store.rows(sources, "problems", Problem)
        curated = [row for row in fixed if row.role is Role.CURATED]
        return [*curated, *run.store.rows(judged, "problems", Problem)]

    splits = cache(lambda: split_of(rows(), run.config))

    def work(index: int, _at: object) -> Shard:
        part = chunk(rows(), size, index)
        kept = [row for row in part if row.id in splits()]
        rejects = [
            Reject(
                problem_id=row.id,
                stage="select",
                reason=Reason.NOT_SELECTED,
                text=row.text[:2000],
                detail=f"over the share of {row.tier}/{row.strategy} in a target of {settings.target}",
            )
            for row in part
            if row.id not in splits()
        ]
        selected = [Selected(problem_id=row.id, split=splits()[row.id]) for row in kept]
        tables = {"problems": (Problem, kept), "selected": (Selected, selected), "rejects": (Reject, rejects)}
        return Shard(incoming=len(part), tables=tables)

    return run_shards(run, stage, lambda: chunk_sizes(len(rows()), size), work)


def split_of(rows: Sequence[Problem], config: Config) -> dict[str, str]:
    """id -> "train" or "test" of every row that goes on. Evolved problems train; curated ones are split."""
    evolved = [row for row in rows if row.role is Role.EVOLVED]
    curated = [row for row in rows if row.role is Role.CURATED]
    candidates = [
        Candidate(id=row.id, tier=row.tier, strategy=row.strategy, root_id=row.root_id)
        for row in evolved
        if row.strategy is not None
    ]
    chosen = dict.fromkeys(select_candidates(candidates, config.select), "train")
    tiers = {row.id: row.tier for row in curated}
    held_out = split_curated(
        [row.id for row in curated], config.aggregate.test_problems, config.aggregate.split_seed, tiers
    )
    return chosen | held_out
