"""Two stages at the same time: the second starts with a shard when the first has finished it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path

from tasks.storage.artifacts import Artifact, Store

POLL_S = 0.2  # seconds between two checks for a finished shard


class OtherStageFailed(Exception):
    """Raised in a stage because the concurrent stage failed; the error of the other stage is the one to report."""


class Handover:
    """The shared state of two concurrent stages.

    It holds which shards of the first stage, which writes into `folder`, are finished, and whether one of the two failed.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._whole, self._failed = threading.Event(), threading.Event()

    def check_cancelled(self) -> None:
        """Raise `OtherStageFailed` if one of the stages has failed."""
        if self._failed.is_set():
            raise OtherStageFailed("a concurrent stage failed")

    def wait(self, index: int | None) -> None:
        """Block until shard `index` of the first stage is on disk (None: until its artifact is finished).

        Raises `OtherStageFailed` if one of the stages fails meanwhile.
        """
        while not self._is_finished(index):
            self.check_cancelled()
            self._failed.wait(POLL_S)

    def _is_finished(self, index: int | None) -> bool:
        if index is None:
            return self._whole.is_set()
        return self._store.finished_shard(self._folder, index) is not None

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Run a block; an exception in it ends the other stage at its next cancellation check."""
        try:
            yield
        except BaseException:
            self._failed.set()
            raise

    def run(self, first: Callable[[], Artifact], second: Callable[[], Artifact]) -> tuple[Artifact, Artifact]:
        """Run both stages concurrently, the second in a thread that shares this thread's Prefect run context.

        Raises the exception of the stage that failed first, after both have ended.
        """

        def run_second() -> Artifact:
            with self.failing_together():
                return second()

        with ThreadPoolExecutor(1, "second-stage") as pool, self.failing_together():
            later = pool.submit(copy_context().run, run_second)
            try:
                written = first()
            except OtherStageFailed:
                later.result()  # raises
                raise
            self._whole.set()
            return written, later.result()
