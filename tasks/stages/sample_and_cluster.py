"""Run the stages sample and cluster concurrently: a shard is clustered as soon as it has been sampled."""

from __future__ import annotations

from prefect.logging import get_run_logger

from tasks.config import Config
from tasks.processes.machine import device_is_cpu
from tasks.runtime.driver import Run, drop_if_stale, find
from tasks.runtime.overlap import Handover
from tasks.stages.cluster import cluster
from tasks.stages.sample import sample, sample_sizes, sample_stage
from tasks.storage.artifacts import Artifact
from tasks.text import counted


def sample_and_cluster(run: Run, problems: Artifact) -> tuple[Artifact, Artifact]:
    """Run both stages and return their artifacts: concurrently if `overlaps(config)`, with the same result either way."""
    stage = sample_stage(run, problems)
    if not overlaps(run.config) or find(run.store, stage) is not None:
        sampled = sample(run, problems)
        return sampled, cluster(run, sampled)
    drop_if_stale(run.store, stage)  # before clustering starts to read shards
    folder, sizes = run.store.folder(stage.name, stage.fingerprint), sample_sizes(run, problems)
    coming = Artifact(name=stage.name, fingerprint=stage.fingerprint, path=folder, num_rows=sum(sizes))
    handover = Handover(run.store, folder)
    get_run_logger().info(
        "cluster: runs alongside sampling, shard by shard (%s)", counted(len(sizes), "shard")
    )
    return handover.run(
        lambda: sample(run, problems, check_cancelled=handover.check_cancelled),
        lambda: cluster(
            run, coming, sizes=sizes, ready=handover.wait, check_cancelled=handover.check_cancelled
        ),
    )


def overlaps(config: Config) -> bool:
    """Whether clustering runs concurrently with sampling.

    With `auto`, it does unless both models run on the CPU of this machine, since either of them uses all cores.
    """
    roles = (config.models.teacher, config.models.equivalence_judge)
    on_same_cores = device_is_cpu() and all(role.serve is not None for role in roles)
    return {"always": True, "never": False, "auto": not on_same_cores}[config.cluster.overlap]
