"""Math-Verify in small processes of our own, for the answers that `tasks.core.meaning` cannot read.

Math-Verify times itself with SIGALRM, which only works in a main thread, and sympy can hang or fill the memory. So it
runs, with its own timeouts off, in worker processes: one line of JSON in, one out. A worker gives itself a kernel timer
for each question, which ends it even inside a long C call; it also ends when its input closes, hence with its owner,
however that dies. Workers start on first use, are reused, and are replaced when they end.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

_SCRIPT: Final = Path(__file__).with_name("mathverify_worker.py")
_MAX_WORKERS: Final = min(4, os.cpu_count() or 1)
_GRACE_S: Final = 1.0
_START_S: Final = 120.0


class _Worker:
    """One process. Not for use from two threads at once."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.alive = self._line(_START_S) == b"ready\n"

    def ask(self, first: str, second: str, timeout_s: float) -> bool | None:
        """The worker's verdict; None, and no longer alive, when it gave none in time."""
        question = json.dumps([first, second, timeout_s]).encode("ascii") + b"\n"
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(question)
            self.process.stdin.flush()
            answer = self._line(timeout_s + _GRACE_S)
        except OSError:  # it died before it could read
            answer = b""
        self.alive = answer.endswith(b"\n")
        return answer == b"true\n" if self.alive else None

    def stop(self) -> None:
        """End the process and reap it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # an unsent question in the buffer of a dead worker
                continue

    def _line(self, timeout_s: float) -> bytes:
        """The next line, or what there was of it when the worker ended or was ended after `timeout_s`."""
        assert self.process.stdout is not None
        timer = threading.Timer(timeout_s, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            return self.process.stdout.readline()
        finally:
            timer.cancel()


class _Pool:
    """At most `_MAX_WORKERS` workers, handed out one question at a time; the last one used is taken first."""

    def __init__(self) -> None:
        self.slots = threading.Semaphore(_MAX_WORKERS)
        self.lock = threading.Lock()
        self.idle: list[_Worker] = []

    def ask(self, first: str, second: str, timeout_s: float) -> bool | None:
        with self.slots:
            with self.lock:
                worker = self.idle.pop() if self.idle else None
            worker = worker or _Worker()
            try:
                verdict = worker.ask(first, second, timeout_s)
            except (
                BaseException
            ):  # an interrupt in the middle leaves an answer in the pipe: never reuse this worker
                worker.stop()
                raise
            if worker.alive:
                with self.lock:
                    self.idle.append(worker)
            else:
                worker.stop()
            return verdict

    def stop(self) -> None:
        with self.lock:
            workers, self.idle = self.idle, []
        for worker in workers:
            worker.stop()


_pool = _Pool()


def verify(first: str, second: str, timeout_s: float) -> bool | None:
    """Whether Math-Verify calls the two answers equal in both directions; None when it takes longer than `timeout_s` or
    dies of the question.

    Safe in any thread and after a fork. The time a busy or starting worker makes us wait does not count.
    """
    return _pool.ask(first, second, timeout_s)


def _forget() -> None:
    """After a fork the pipes belong to the parent."""
    global _pool
    _pool = _Pool()


atexit.register(lambda: _pool.stop())
os.register_at_fork(after_in_child=_forget)
