"""Results of Ray actors, with what went wrong in them told as what it was."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tasks.core.errors import UserError
from tasks.io.ray_session import last_error_line

GRACE_S = 10.0
"""How long a failed call's companions are given to show that it failed because one of them had died."""


class ActorLost(Exception):
    """An actor's process ended (killed, out of memory, machine gone). `who` names the actor."""

    def __init__(self, who: str, cause: str) -> None:
        super().__init__(f"{who} died: {cause}")
        self.who = who


def results(calls: Sequence[Any], who: str, *, limit_s: float | None = None) -> list[Any]:
    """Results of the calls, in order; the first failure is raised at once, whatever the others do.

    What a method raised (a `UserError`, say) is raised as itself. The end of a process is an `ActorLost`, also where it
    showed first in another rank's broken collective, and so is a call that takes more than `limit_s` seconds: one whose
    partner on the other side died may wait for ever.
    """
    import ray

    waiting, started = list(calls), time.monotonic()
    while waiting:
        left = None if limit_s is None else max(0.0, started + limit_s - time.monotonic())
        ended, waiting = ray.wait(waiting, num_returns=1, timeout=left)
        if not ended:
            raise ActorLost(who, f"no answer within {limit_s:.0f} s")
        try:
            result(ended[0], who)
        except (UserError, ActorLost):
            raise
        except Exception:
            _raise_if_lost(waiting, who)
            raise
    return [result(call, who) for call in calls]


def _raise_if_lost(calls: list[Any], who: str) -> None:
    """Raise `ActorLost` when one of the calls ends with its process while they are waited for."""
    import ray
    from ray.exceptions import RayActorError

    if not calls:
        return
    for call in ray.wait(calls, num_returns=len(calls), timeout=GRACE_S)[0]:
        try:
            ray.get(call)
        except RayActorError as error:
            raise ActorLost(who, last_error_line(str(error))) from error
        except Exception:  # it failed too, for the same cause as the first
            continue


def result(call: Any, who: str) -> Any:
    """`results` for one call."""
    import ray
    from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

    try:
        return ray.get(call)
    except RayActorError as error:
        called = isinstance(error, RayTaskError)  # an engine, say, that a student sent weights to
        raise ActorLost(
            f"an actor that {who} called" if called else who, last_error_line(str(error))
        ) from error
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ObjectLostError):  # weights, say, that lay with a student
            raise ActorLost(f"the owner of what {who} was given", str(cause).splitlines()[0]) from error
        if isinstance(cause, Exception):
            raise cause from error
        raise
