"""Ray sessions: connect to a running Ray, or start a local one that never outlives this process."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from textwrap import shorten

import psutil

from tasks.errors import UserError
from tasks.keys import without_keys
from tasks.processes.machine import available_cores
from tasks.processes.supervisor import Guard

OBJECT_STORE_BYTES = 256 * 1024**2
RAY_TRIES = 5
JOIN_S = 10.0
"""Timeout in seconds for a connection to a cluster."""

RAY_ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # with Ray's default of 15, workers get too little CPU time on a busy machine
    "RAY_prestart_worker_first_driver": "0",  # every actor starts a worker of its own; idle ones cost CPU time and memory
    # Timeouts between Ray's processes; the defaults of 10 to 60 seconds are too short on a busy machine.
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_raylet_start_wait_time_s": "240",
    "RAY_gcs_server_port_wait_time_s": "240",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240",
    "RAY_worker_register_timeout_seconds": "240",
}
"""Environment variables that Ray reads on import; values that are already set take precedence."""


class RaySession:
    """A connection to a running Ray (this process's, or the one at RAY_ADDRESS), or else a new local Ray.

    Ray sets RAY_ADDRESS for every job of a cluster, so the actors of a job are placed on that cluster. `actors` is the number of
    processes that need a core, `object_store_bytes` the size of the object store (None: Ray's default, 30% of the memory); both
    apply to a new Ray only, whose processes inherit no keys. Some helper processes of Ray outlive a killed owner by minutes, so a
    new Ray is watched by a `Guard`. Also works as a context manager. Raises `UserError` if the cluster cannot be reached or Ray
    does not start.
    """

    def __init__(self, actors: int, object_store_bytes: int | None = OBJECT_STORE_BYTES) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in RAY_ENVIRONMENT.items()})
        import ray

        self._guard: Guard | None = None
        self._ended = threading.Event()
        self._ours = not ray.is_initialized()
        if not self._ours:
            return
        address = os.environ.get("RAY_ADDRESS")
        if address:
            _join(address)
            return
        with without_keys():
            self._guard = Guard()
        self._before = set(psutil.Process().children(recursive=True))
        try:
            self._in_lasting_thread(
                lambda: _start_ray(actors, object_store_bytes, self._new_processes, self._ended.is_set)
            )
        except BaseException:
            self.close()
            raise
        self.guard_workers()

    def __enter__(self) -> RaySession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def guard_workers(self) -> None:
        """Let the guard watch the processes that Ray has started in the meantime, too."""
        if self._guard is not None:
            self._guard.watch(self._new_processes())

    def _in_lasting_thread(self, call: Callable[[], None]) -> None:
        """Run `call` in a thread that lives as long as this object: Ray's processes die with the thread that started them
        (PR_SET_PDEATHSIG), and the caller's thread may belong to a pool. Also stops Ray from replacing the SIGTERM handler."""
        outcome: Future[None] = Future()

        def live() -> None:
            try:
                outcome.set_result(call())
            except BaseException as error:  # raised again in the caller
                outcome.set_exception(error)
            self._ended.wait()

        threading.Thread(target=live, name="ray", daemon=True).start()
        outcome.result()

    def _new_processes(self) -> set[psutil.Process]:
        return of_ray(psutil.Process().children()) - self._before

    def close(self) -> None:
        """Shut down the Ray that this session started; a Ray that was already running is left as it was."""
        import ray

        if self._ours:
            self.guard_workers()
            ray.shutdown()
        if self._guard is not None:
            self._guard.close()
        self._ended.set()


def _join(address: str) -> None:
    """Connect to the cluster at `address` (RAY_ADDRESS). Raises `UserError` if nothing listens there: Ray itself would wait for
    more than ten minutes."""
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():  # not for "auto"
        try:
            socket.create_connection((host, int(port)), JOIN_S).close()
        except OSError as error:
            raise UserError(
                f"no Ray cluster listens at RAY_ADDRESS={address} ({error}): start it, or unset RAY_ADDRESS to use this machine"
            ) from error
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)


def _start_ray(
    actors: int,
    object_store_bytes: int | None,
    started: Callable[[], set[psutil.Process]],
    unwanted: Callable[[], bool],
) -> None:
    """Start Ray on this machine, with retries, since Ray's timeout for the node to register (30 seconds) cannot be changed.

    `started` returns the processes that a failed try left behind; they are killed before the next try. `unwanted` returns
    whether the session was closed in the meantime.
    """
    import ray

    for left in reversed(range(RAY_TRIES)):
        try:
            with without_keys():
                ray.init(
                    address="local",
                    num_cpus=max(available_cores(), actors),
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    object_store_memory=object_store_bytes,
                )
            return
        except Exception as error:  # Ray raises a bare Exception when its node is late
            ray.shutdown()
            for process in started():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if not left or unwanted():
                raise UserError(
                    f"Ray did not start on this machine ({error}): stop other heavy processes and try again"
                ) from error


def of_ray(children: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Return those of `children` that run a program of Ray, with all their descendants. The others may be servers that other
    threads have started."""
    import ray

    package, found = f"{Path(ray.__file__).parent}{os.sep}", set[psutil.Process]()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(argument.startswith((package, "ray::")) for argument in child.cmdline()):
                found |= {child, *child.children(recursive=True)}
    return found


def last_error_line(text: str) -> str:
    """Return the line with the actual error from Ray's report of a failed call (at most 400 characters)."""
    if "running low on memory" in text:
        return "the machine ran out of memory, and Ray ended the process: stop other programs, or use fewer engines"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error:" in line and "ray::" not in line]
    return shorten((errors or lines or ["no message"])[-1], 400, placeholder=" ...")
