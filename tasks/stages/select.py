"""Stage select: choose the evolved problems to annotate, and assign the curated problems to their split."""

from __future__ import annotations

from functools import cache

from prefect.logging import get_run_logger

from tasks.runtime.driver import Run, Shard, Stage, run_shards
from tasks.runtime.estimate import annotation_cost
from tasks.runtime.pending import Pending, rows_digest
from tasks.runtime.selection_shards import columns, divided, parts_of, read_part, split_of
from tasks.storage.artifacts import Artifact

VERSION = 3


def select(run: Run, judged: Artifact, sources: Artifact) -> Artifact:
    """Select evolved problems down to the target, and add every curated problem. Without a target, log what annotating all
    of them takes.

    The shards are those of the sources that contain curated problems, followed by those of the judged problems.
    """
    settings = run.config.select
    curated_settings = {
        "test_problems": run.config.aggregate.test_problems,
        "split_seed": run.config.aggregate.split_seed,
    }
    stage = Stage(
        name="select", version=VERSION, unit="problem", inputs=(judged, sources),
        settings={"select": settings.identity(), "curated": curated_settings},
    )  # fmt: skip
    parts = cache(lambda: parts_of(run.store, sources, judged))
    splits = cache(lambda: split_of(columns(parts()), run.config))

    def content(index: int) -> str:
        artifact, shard = parts()[index].artifact, parts()[index].shard
        names = read_part(parts()[index], ("id",))["id"].to_pylist()
        digest = run.store.table_digest(artifact, shard, "problems")
        return rows_digest([digest, [splits().get(name) for name in names]])

    def work(index: int, _on_progress: object) -> Shard:
        rows = read_part(parts()[index])
        return Shard(incoming=len(rows), tables=divided(rows, splits(), settings))

    pending = Pending(run.store, stage, content)
    selected = run_shards(run, stage, lambda: [part.rows for part in parts()], work, pending)
    if settings.target is None:
        get_run_logger().info(
            "select: select.target is null: %s", annotation_cost(run.config, selected.num_rows)
        )
    return selected
