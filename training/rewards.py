"""Rewards of verified answers: worker processes grade responses while others are still being generated.

No Ray and no torch: a worker loads `tasks.answers` alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

from tasks.answers import grade
from tasks.errors import UserError
from tasks.processes.machine import available_cores
from tasks.processes.worker_process import WorkerDied, WorkerProcess

MAX_WORKERS: Final = 4
_AT_ONCE: Final = (
    64  # responses per message: on busy cores a message takes longer than the grading of a response
)
_ATTEMPTS: Final = 3


Values = tuple[tuple[str, float], ...]
"""Answers, and the reward of a response that has one of them; of several that it matches the first counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    text: str
    values: Values
    reward: Future[float] = field(default_factory=Future)


class _Closed(Exception):
    """The grader has ended."""


class Grader:
    """Worker processes that grade responses with `tasks.answers.grade`; to be used as a context manager.

    A reward depends on response and answers alone. A worker that dies is replaced, and its responses are graded again. All
    workers end with the block, or with this process however it ends. Their start takes some seconds, which nobody waits for
    but the first rewards. By default there are as many as cores, at most `MAX_WORKERS`.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._own = threading.local()
        self._lock = threading.Lock()
        self._processes: list[WorkerProcess] = []
        self._closed = False
        number = min(MAX_WORKERS, available_cores()) if workers is None else workers
        self._threads = [
            threading.Thread(target=self._serve, name=f"grader-{index}", daemon=True)
            for index in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, text: str, label: str) -> Future[float]:
        """Return the future reward of a response: 1.0 if its answer matches the label, else 0.0. As `submit_values` otherwise."""
        return self.submit_values(text, ((label, 1.0),))

    def submit_values(self, text: str, values: Values) -> Future[float]:
        """Return the future value of the first of several answers that the answer of a response matches, 0.0 if it matches none.

        `text` begins with `<think>` if its prompt ended with it. The result raises `UserError` if the workers die on this
        response time and again, and `CancelledError` if the block ends first. Raises `RuntimeError` after the block.
        """
        job = _Job(text=text, values=values)
        with self._lock:
            if self._closed:
                raise RuntimeError("Grader.submit works inside its `with` block only")
            self._jobs.put(job)
        return job.reward

    def close(self) -> None:
        """End all workers and cancel what is not graded yet."""
        with self._lock:
            self._closed = True
            processes, self._processes = self._processes, []
        for process in processes:
            process.stop()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    # --- threads: one for each process ---------------------------------------------------------------------------

    def _serve(self) -> None:
        self._graded([])  # loads what grading needs before the first response comes
        while (first := self._jobs.get()) is not None:
            jobs = [first, *self._waiting()]
            for job, outcome in zip(jobs, self._graded(jobs), strict=True):
                _settle(job.reward, outcome)

    def _waiting(self) -> list[_Job]:
        """Return this thread's share of the waiting jobs."""
        jobs = list[_Job]()
        with suppress(Empty):
            for _ in range(min(_AT_ONCE - 1, self._jobs.qsize() // len(self._threads))):
                if (job := self._jobs.get_nowait()) is None:
                    self._jobs.put(None)  # for the thread that it was meant for
                    break
                jobs.append(job)
        return jobs

    def _graded(self, jobs: Sequence[_Job], attempt: int = 1) -> Sequence[float | Exception]:
        """Return the outcome of each job. If the process dies, each job is graded alone, at most `_ATTEMPTS` times."""
        try:
            return self._process().call(_outcomes, [(job.text, job.values) for job in jobs])
        except WorkerDied as error:
            self._discard()
            if len(jobs) != 1:
                return [outcome for job in jobs for outcome in self._graded([job])]
            return self._graded(jobs, attempt + 1) if attempt < _ATTEMPTS else [_given_up(jobs[0], error)]
        except Exception as error:  # no process can be started; or `close` has taken its streams away
            return [_Closed() if self._closed else error] * len(jobs)

    def _process(self) -> WorkerProcess:
        """Return the process of this thread, started if it has none. Raises `_Closed` after `close`."""
        with self._lock:
            if self._closed:
                raise _Closed
            if not hasattr(self._own, "process"):
                self._own.process = WorkerProcess()
                self._processes.append(self._own.process)
            return self._own.process

    def _discard(self) -> None:
        """Reap the dead process of this thread."""
        with self._lock:
            if self._own.process in self._processes:  # `close` stops the others
                self._processes.remove(self._own.process)
                self._own.process.stop()
        del self._own.process


def _settle(reward: Future[float], outcome: float | Exception) -> None:
    if isinstance(outcome, _Closed):
        reward.cancel()
    if not reward.set_running_or_notify_cancel():  # cancelled, here or by the caller
        return
    if isinstance(outcome, Exception):
        reward.set_exception(outcome)
    else:
        reward.set_result(outcome)


def _given_up(job: _Job, error: WorkerDied) -> UserError:
    found = UserError(
        f"{_ATTEMPTS} processes in a row died while they graded a response of {len(job.text):,} characters against the label"
        f" {job.values[0][0][:60]!r}, possibly out of memory: free memory and start again"
    )
    found.__cause__ = error
    return found


def _outcomes(pairs: Sequence[tuple[str, Values]]) -> list[float | Exception]:
    """Return the reward of each response with its answers, or what its grading raised."""
    found = list[float | Exception]()
    for text, values in pairs:
        try:
            found.append(next((value for answer, value in values if grade(text, answer)), 0.0))
        except Exception as error:  # one response must not cost the others their rewards
            found.append(error)
    return found
