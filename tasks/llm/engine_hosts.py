"""Processes that hold an offline engine: of this machine, or actors of a Ray cluster.

Ray's helper processes poll, which takes CPU time from an engine on a few cores. On one machine there is nothing for them to do.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from textwrap import shorten
from typing import Any, Final, Protocol, cast

from tasks.errors import UserError
from tasks.llm.engine_log import COMPLAINT_CHARS, is_secondary, last_error, last_line
from tasks.llm.offline_engine import OfflineEngine
from tasks.processes.machine import visible_gpus
from tasks.processes.ray_session import RaySession, last_error_line
from tasks.processes.worker_process import WorkerDied, WorkerProcess

END_S: Final = 10.0
"""Timeout in seconds for the end of a call whose engine was killed."""


class EngineFailed(Exception):
    """An engine has ended, or cannot be used. The text is the cause."""


class EngineHost(Protocol):
    """A process that holds an `OfflineEngine`. Both methods raise `EngineFailed`, or the engine's `UserError`."""

    def start(self, *arguments: Any) -> None:
        """Make the engine."""
        ...

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the engine and return its result."""
        ...


# --- this machine ------------------------------------------------------------------------------------------------


@contextmanager
def on_this_machine(engines: int, gpus: int) -> Iterator[list[EngineHost]]:
    """Yield hosts on this machine, each with so many GPUs of its own. They end with the block, or with this process."""
    hosts = list[_Process]()
    try:
        for number in range(engines):
            hosts.append(_Process(gpus_of(number, gpus)))
        yield [*hosts]
    finally:
        for host in hosts:
            host.end()


def gpus_of(number: int, gpus: int) -> dict[str, str]:
    """Return the environment that shows engine `number` its `gpus` GPUs of those that this process may use."""
    if not gpus:
        return {}
    places = range(number * gpus, (number + 1) * gpus)
    names = visible_gpus()
    if not names and "CUDA_VISIBLE_DEVICES" not in os.environ:  # GPUs of other makers are not listed
        names = tuple(map(str, range(places.stop)))
    if places.stop > len(names):
        raise UserError(
            f"engine {number + 1} needs GPUs of its own ({gpus}), and there are {len(names)} ({', '.join(names) or 'none'}):"
            " lower `serve.engines`, or set CUDA_VISIBLE_DEVICES to more GPUs"
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[place] for place in places)}


class _Process:
    """A process of this machine. What it prints is kept in a file without a name, for the cause of a failure."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115
        self._worker = WorkerProcess(environment, errors=self._log)

    def start(self, *arguments: Any) -> None:
        self._run(_make, arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        return self._run(_call, (method, arguments))

    def _run(self, function: Any, item: Any) -> Any:
        try:
            return self._worker.call(function, item)
        except WorkerDied as error:
            status = self._worker.process.returncode
            killed = status == -signal.SIGKILL
            cause = last_error(self._printed()) or (
                "possibly out of memory" if killed else last_line(self._printed())
            )
            raise EngineFailed(f"its process ended with status {status}, {cause}") from error
        except UserError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            cause = last_error(self._printed()) if is_secondary(text) else ""
            raise EngineFailed(cause or shorten(text, COMPLAINT_CHARS, placeholder=" ...")) from error

    def _printed(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def end(self) -> None:
        self._worker.stop()
        self._log.close()


_engines: list[OfflineEngine] = []  # the one of this process, if it is such a host


def _make(arguments: tuple[Any, ...]) -> None:
    _engines.append(OfflineEngine(*arguments))


def _call(call: tuple[str, tuple[Any, ...]]) -> Any:
    method, arguments = call
    return getattr(_engines[0], method)(*arguments)


# --- a Ray cluster -----------------------------------------------------------------------------------------------


@contextmanager
def on_cluster(engines: int, gpus: int) -> Iterator[list[EngineHost]]:
    """Yield hosts on the Ray cluster at RAY_ADDRESS, each with so many GPUs of its own. They end with the block."""
    with RaySession(engines):
        hosts = [_Actor(gpus) for _ in range(engines)]
        try:
            yield [*hosts]
        finally:
            for host in hosts:
                host.end()


class _Actor:
    """A Ray actor."""

    def __init__(self, gpus: int) -> None:
        import ray

        self._remote = cast(Any, ray.remote)(num_cpus=1, num_gpus=gpus, max_restarts=0)(OfflineEngine)
        self._actor: Any = None
        self._calling = threading.Lock()

    def start(self, *arguments: Any) -> None:
        self._actor = self._remote.remote(*arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        import ray
        from ray.exceptions import RayError

        try:
            with self._calling:
                return ray.get(getattr(self._actor, method).remote(*arguments))
        except RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, UserError):
                raise cause from error
            raise EngineFailed(last_error_line(str(error))) from error

    def end(self) -> None:
        import ray

        if self._actor is not None:
            with suppress(ValueError):  # Ray was shut down meanwhile
                ray.kill(self._actor)
        self._calling.acquire(timeout=END_S)  # Ray must not be shut down while a thread waits for it
