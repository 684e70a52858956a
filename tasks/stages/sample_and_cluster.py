"""Run the stages sample and cluster concurrently: a shard is clustered as soon as it has been sampled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path

from prefect.logging import get_run_logger

from tasks.core.config import Config
from tasks.io.artifacts import Artifact, Store
from tasks.io.servers import device_is_cpu
from tasks.stages.cluster import cluster
from tasks.stages.driver import Run, drop_if_stale, find
from tasks.stages.sample import sample, sample_sizes, sample_stage

POLL_S = 0.2  # seconds between two checks for a finished shard


class Ended(Exception):
    """Raised in a stage because the concurrent stage failed; the error of the other stage is the one to report."""


class Handover:
    """The shared state of two concurrent stages.

    It holds which shards of the first stage, which writes into `folder`, are finished, and whether one of the two failed.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._whole, self._failed = threading.Event(), threading.Event()

    def check_cancelled(self) -> None:
        """Raise `Ended` if one of the stages has failed."""
        if self._failed.is_set():
            raise Ended("a concurrent stage failed")

    def wait(self, index: int | None) -> None:
        """Block until shard `index` of the first stage is on disk (None: until its artifact is finished).

        Raises `Ended` if one of the stages fails meanwhile.
        """
        while not self._there(index):
            self.check_cancelled()
            self._failed.wait(POLL_S)

    def _there(self, index: int | None) -> bool:
        if index is None:
            return self._whole.is_set()
        return self._store.finished_shard(self._folder, index) is not None

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """A block whose exception ends the other stage at its next cancellation check."""
        try:
            yield
        except BaseException:
            self._failed.set()
            raise

    def run(self, first: Callable[[], Artifact], second: Callable[[], Artifact]) -> tuple[Artifact, Artifact]:
        """Run both stages concurrently, the second in a thread that shares this thread's Prefect run context.

        Raises the exception of the stage that failed first, after both have ended.
        """

        def beside() -> Artifact:
            with self.failing_together():
                return second()

        with ThreadPoolExecutor(1, "second-stage") as pool, self.failing_together():
            later = pool.submit(copy_context().run, beside)
            try:
                written = first()
            except Ended:
                later.result()  # raises
                raise
            self._whole.set()
            return written, later.result()


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
    get_run_logger().info("cluster: runs alongside sampling, shard by shard (%d shards)", len(sizes))
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
