"""Math-Verify in worker processes: a second opinion on answers that our grammar does not cover.

Math-Verify implements timeouts with SIGALRM, which works only in a main thread, and sympy can hang or exhaust memory.
It therefore runs, with its own timeouts disabled, in worker processes that read and write one line of JSON per pair. A
worker sets a kernel timer of CPU time for each pair, which terminates it even inside a long C call, so that the verdict is
the same on a busy machine. It also exits when its input is closed, that is, when its owner exits for any reason. Workers are
started on first use, reused, and replaced when they exit.
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

from tasks.keys import environment_without_keys

_SCRIPT: Final = Path(__file__).with_name("mathverify_worker.py")
_MAX_WORKERS: Final = min(4, os.cpu_count() or 1)
_WALL_S: Final = 300.0  # for a worker that waits without using CPU time
_START_S: Final = 120.0


class _Worker:
    """One worker process. Not thread-safe."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment_without_keys(),
        )
        self.alive = self._line(_START_S) == b"ready\n"

    def ask(self, first: str, second: str, timeout_s: float) -> bool | None:
        """Return the worker's verdict; None if it has none, or used `timeout_s` seconds of CPU: it has then exited."""
        question = json.dumps([first, second, timeout_s]).encode("ascii") + b"\n"
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(question)
            self.process.stdin.flush()
            answer = self._line(_WALL_S + timeout_s)
        except OSError:  # the worker died before it read the pair
            answer = b""
        self.alive = answer.endswith(b"\n")
        return {b"true\n": True, b"false\n": False}.get(answer)

    def stop(self) -> None:
        """Terminate the process and reap it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # an unsent pair in the buffer of a dead worker
                continue

    def _line(self, timeout_s: float) -> bytes:
        """Return the next line, possibly incomplete if the worker exited or was terminated after `timeout_s`."""
        assert self.process.stdout is not None
        timer = threading.Timer(timeout_s, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            return self.process.stdout.readline()
        finally:
            timer.cancel()


class _Pool:
    """At most `_MAX_WORKERS` workers, one pair each at a time; the most recently used worker is taken first."""

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
            ):  # after an interrupt a reply may remain in the pipe: never reuse this worker
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
    """Return whether Math-Verify finds the two answers equal in both directions.

    Returns None if it cannot read one of them, needs more than `timeout_s` seconds of CPU, or crashes. Thread-safe and
    fork-safe. The time spent waiting for a free worker or for its start does not count.
    """
    return _pool.ask(first, second, timeout_s)


def stop() -> None:
    """Terminate the idle workers; later calls start new ones."""
    _pool.stop()


def _forget() -> None:
    """Discard the workers after a fork: their pipes belong to the parent."""
    global _pool  # noqa: PLW0603 - the lock of the old pool may be held by a thread of the parent
    _pool = _Pool()


atexit.register(stop)
os.register_at_fork(after_in_child=_forget)
