"""Hold slots of the user's concurrency limits while a run uses engines and model servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from tasks.config import Config
from tasks.processes.pace import duration
from tasks.runtime.limits import Work, wanted_slots
from tasks.runtime.phases import phase

LEASE_S = 60.0
"""Slots of a process that was killed are free again after this time."""


@contextmanager
def within_limits(config: Config, work: Work) -> Iterator[None]:
    """Wait for the slots of a run, and hold them during the block. Only limits that the user has created count.

    A run that wants more slots than a limit has takes all of them. The limits are taken in the order of their names, so that two
    runs never wait for each other.
    """
    log = get_run_logger().info
    with ExitStack() as stack:
        for name, slots in sorted(existing(wanted_slots(config, work)).items()):
            with phase(log, partial(_waiting, name, slots)):
                stack.enter_context(concurrency(name, occupy=slots, lease_duration=LEASE_S))
            log("limit %s: %d occupied", name, slots)
        yield


def _waiting(name: str, slots: int, seconds: float) -> str:
    return f"waiting for {slots} of the limit {name}, {duration(seconds)}"


def existing(wanted: Mapping[str, int]) -> dict[str, int]:
    """Return the slots of the limits that exist and are active, at most as many as each has."""
    found = {}
    with get_client(sync_client=True) as client:
        for name, slots in wanted.items():
            try:
                limit = client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                continue
            if limit.active:
                found[name] = max(1, min(slots, limit.limit))
    return found
