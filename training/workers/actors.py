"""Results of Ray actor calls, with failures raised as their original exceptions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tasks.errors import UserError
from tasks.processes.ray_session import last_error_line

GRACE_S = 10.0
"""Seconds to wait, after one call has failed, for another call to reveal that its actor died and caused the failure."""


class ActorLost(Exception):
    """An actor's process ended (killed, out of memory, node lost). `who` names the actor."""

    def __init__(self, who: str, cause: str) -> None:
        super().__init__(f"{who} died: {cause}")
        self.who = who


def results(calls: Sequence[Any], who: str, *, limit_s: float | None = None) -> list[Any]:
    """Return the results of the calls, in order. The first failure is raised at once, without waiting for the other calls.

    An exception raised by a method (e.g. a `UserError`) is raised unchanged. The death of a process raises `ActorLost`, even
    if it first appears as a broken collective on another rank. A call that takes more than `limit_s` seconds also raises
    `ActorLost`: if the peer of a transfer has died, the call may never return.
    """
    import ray

    waiting, started = list(calls), time.monotonic()
    while waiting:
        left = None if limit_s is None else max(0.0, started + limit_s - time.monotonic())
        ended, waiting = ray.wait(waiting, num_returns=1, timeout=left)
        if not ended:
            raise ActorLost(who, f"no result within {limit_s:.0f} s")
        try:
            result(ended[0], who)
        except (UserError, ActorLost):
            raise
        except Exception:
            _raise_if_lost(waiting, who)
            raise
    return [result(call, who) for call in calls]


def _raise_if_lost(calls: list[Any], who: str) -> None:
    """Raise `ActorLost` if the process of one of the calls ends within `GRACE_S` seconds."""
    import ray
    from ray.exceptions import RayActorError

    if not calls:
        return
    for call in ray.wait(calls, num_returns=len(calls), timeout=GRACE_S)[0]:
        try:
            ray.get(call)
        except RayActorError as error:
            raise ActorLost(who, last_error_line(str(error))) from error
        except Exception:  # failed too, for the same reason as the first call
            continue


def result(call: Any, who: str) -> Any:
    """Return the result of one call; exceptions as in `results`."""
    import ray
    from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

    try:
        return ray.get(call)
    except RayActorError as error:
        called = isinstance(error, RayTaskError)  # e.g. a rollout engine that a student rank sends weights to
        raise ActorLost(
            f"an actor that {who} called" if called else who, last_error_line(str(error))
        ) from error
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ObjectLostError):  # e.g. weights owned by a student rank
            raise ActorLost(f"the owner of an object passed to {who}", str(cause).splitlines()[0]) from error
        if isinstance(cause, Exception):
            raise cause from error
        raise
