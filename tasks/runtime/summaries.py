"""Counts, times and rejects of finished artifacts, for manifests and reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.rows import Reject
from tasks.storage.artifacts import Artifact, Store
from tasks.storage.manifest import StageCount


def stage_counts(store: Store, artifacts: Sequence[Artifact]) -> tuple[StageCount, ...]:
    """Return the counts of every stage: in, kept, and rejected by reason."""
    counts = [(artifact.name, store.record(artifact)["counts"]) for artifact in artifacts]
    return tuple(
        StageCount(stage=name, rows_in=count["in"], kept=count["kept"], rejected=count["rejected"])
        for name, count in counts
    )


def timings(store: Store, artifacts: Sequence[Artifact]) -> dict[str, float]:
    """Return the seconds that the shards of every stage took, including the start of its server."""
    seconds = {}
    for artifact in artifacts:
        shards = (store.finished_shard(artifact.path, shard.index) or {} for shard in store.shards(artifact))
        seconds[artifact.name] = round(sum(shard["seconds"] for shard in shards), 3)
    return seconds


def funnel_table(counts: Sequence[StageCount]) -> list[dict[str, Any]]:
    """Return one row per stage for a table of the Prefect UI."""
    return [
        {
            "stage": count.stage,
            "in": count.rows_in,
            "kept": count.kept,
            "rejected": count.dropped,
            "reasons": ", ".join(f"{reason}: {number}" for reason, number in count.reasons) or "none",
        }
        for count in counts
    ]


def rejects_of(store: Store, artifacts: Sequence[Artifact]) -> list[Reject]:
    """Return all rejected rows, in the order of the stages."""
    return [row for artifact in artifacts for row in store.rows(artifact, "rejects", Reject)]
