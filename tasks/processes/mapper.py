"""Map a function over many items, with the results in order: in this process, in several, or on a Ray cluster.

The function and the items are pickled, so the function must be importable where it runs. Exceptions are raised again in
the calling process. Only a few items are submitted ahead of the one whose result is requested.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from tasks.errors import UserError
from tasks.processes.machine import available_cores
from tasks.processes.ray_session import RAY_ENVIRONMENT
from tasks.processes.worker_process import WorkerProcess

Item = TypeVar("Item")
Result = TypeVar("Result")
Mapper = Callable[[Callable[[Item], Result], Iterable[Item]], Iterator[Result]]

_AHEAD: Final = 2  # items per worker
_CONNECT_S: Final = 10.0


@contextmanager
def open_mapper(workers: int, address: str | None = None) -> Iterator[Mapper[Any, Any]]:
    """Yield a mapper that is valid inside the block.

    It runs on the Ray cluster at `address` if given (`auto`, host:port or ray://host:port), else in `workers` processes
    of this machine, or in this process if `workers` or the number of available cores is 1. Files must have the same paths
    wherever the function runs. Raises `UserError` if the cluster cannot be reached.
    """
    workers = min(workers, available_cores())
    if address is not None:
        with _ray(address) as mapper:
            yield mapper
    elif workers > 1:
        with _processes(workers) as mapper:
            yield mapper
    else:
        yield map


def _in_order(
    submit: Callable[[Any], Any], result: Callable[[Any], Any], items: Iterable[Any], ahead: int
) -> Iterator[Any]:
    """Yield the results of `submit` in order, with at most `ahead` items pending."""
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(submit(item))
        if len(waiting) >= ahead:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())


# --- processes of this machine -----------------------------------------------------------------------------------


@contextmanager
def _processes(workers: int) -> Iterator[Mapper[Any, Any]]:
    local, started = threading.local(), []

    def call(function: Callable[[Any], Any], item: Any) -> Any:
        if not hasattr(local, "worker"):
            local.worker = WorkerProcess()
            started.append(local.worker)
        return local.worker.call(function, item)

    with ThreadPoolExecutor(workers, thread_name_prefix="mapper") as threads:

        def mapper(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            return _in_order(
                lambda item: threads.submit(call, function, item), Future.result, items, _AHEAD * workers
            )

        try:
            yield mapper
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in started:
                worker.stop()
    for worker in started:  # again, for one that was still starting
        worker.stop()


# --- Ray ---------------------------------------------------------------------------------------------------------


@contextmanager
def _ray(address: str) -> Iterator[Mapper[Any, Any]]:
    """Yield a mapper that uses this process's Ray connection, or else connects to `address` for the length of the block."""
    os.environ.update({name: os.environ.get(name, value) for name, value in RAY_ENVIRONMENT.items()})
    import ray

    ours = not ray.is_initialized()
    if ours:
        try:
            _must_answer(address)
            ray.init(address=address, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"no Ray cluster responds at ray.address {address} ({error}): start it (set RAY_AUTH_MODE=token if it requires"
                " a token), or leave ray.address unset"
            ) from error
    try:

        def mapper(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            task = ray.remote(function)
            ahead = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            return _in_order(task.remote, ray.get, items, ahead)

        yield mapper
    finally:
        if ours:
            ray.shutdown()


def _must_answer(address: str) -> None:
    """Raise `OSError` if nothing listens at host:port; Ray itself reports that only after minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
