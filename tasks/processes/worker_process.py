"""A process that calls functions for this one.

Function and argument are pickled, so the function must be importable there. Its exceptions are raised again here.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import IO, Any, Final

from tasks.errors import UserError
from tasks.keys import environment_without_keys

_LENGTH_BYTES: Final = 8
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1"}


class WorkerDied(UserError):
    """A worker process ended while it ran a function."""


class WorkerProcess:
    """A process that calls functions one at a time. It ends as soon as its standard input closes, also while it runs a function,
    so it never outlives its parent. It inherits no keys. `errors` is a file for what it prints, by default the standard error."""

    def __init__(self, environment: Mapping[str, str] = ONE_THREAD, errors: IO[bytes] | None = None) -> None:
        paths = os.pathsep.join(map(os.path.abspath, sys.path))  # an empty one is the current folder
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tasks.processes.worker_process"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            env=environment_without_keys() | {"PYTHONPATH": paths, **environment},
        )  # fmt: skip

    def call(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Return `function(item)`, computed in the worker. Raises its exception, or `WorkerDied`."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            _send(self.process.stdin, pickle.dumps((function, item), protocol=pickle.HIGHEST_PROTOCOL))
            reply = _receive(self.process.stdout)
        except (OSError, EOFError) as error:
            raise WorkerDied(
                f"a worker process died while it ran {function.__name__} (exit status {self.process.wait()}), possibly out"
                " of memory: lower run.cpu_workers and start again"
            ) from error
        good, value = pickle.loads(reply)
        if not good:
            raise value
        return value

    def stop(self) -> None:
        """Kill the process and reap it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # data that a dead worker did not read
                stream.close()


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(len(data).to_bytes(_LENGTH_BYTES, "big"))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    """Return the next message. Raises `EOFError` if the other process has closed the stream."""
    length = int.from_bytes(stream.read(_LENGTH_BYTES), "big")
    data = stream.read(length)
    if not length or len(data) < length:
        raise EOFError
    return data


# --- in the worker -----------------------------------------------------------------------------------------------


def _serve() -> None:
    """Run the worker: read calls from the original standard input, write results to the original standard output."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # sent to all processes of a run; the parent stops its workers
        signal.signal(number, signal.SIG_IGN)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # keep printed text out of the results
    calls: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(requests, calls), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        while True:
            _send(replies, _reply(calls.get()))


def _read(requests: IO[bytes], calls: SimpleQueue[bytes]) -> None:
    """Pass the calls on; end the process when there will be no more."""
    with contextlib.suppress(EOFError):
        while True:
            calls.put(_receive(requests))
    os._exit(0)


def _reply(call: bytes) -> bytes:
    """Return the pickled outcome of a call: whether there is a result, and the result or the exception."""
    try:
        function, item = pickle.loads(call)
        return pickle.dumps((True, function(item)), protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        with contextlib.suppress(Exception):  # some exceptions cannot be pickled, or not be made again
            data = pickle.dumps((False, error))
            pickle.loads(data)
            return data
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))


if __name__ == "__main__":
    _serve()
