"""Results of Ray actors, with what went wrong in them told as what it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.io.ray_session import last_error_line

POLL_S = 1.0


class ActorLost(Exception):
    """An actor's process ended (killed, out of memory, machine gone). `who` names the actor."""

    def __init__(self, who: str, cause: str) -> None:
        super().__init__(f"{who} died: {cause}")
        self.who = who


def results(calls: Sequence[Any], who: str) -> list[Any]:
    """Results of the calls, in order; the first failure is raised at once, whatever the others do.

    What a method raised (a `UserError`, say) is raised as itself. The end of the process is an `ActorLost`.
    """
    import ray

    waiting = list(calls)
    while waiting:
        ended, waiting = ray.wait(waiting, num_returns=1, timeout=None)
        result(ended[0], who)
    return [result(call, who) for call in calls]


def result(call: Any, who: str) -> Any:
    """`results` for one call."""
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return ray.get(call)
    except RayActorError as error:
        raise ActorLost(who, last_error_line(str(error))) from error
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception):
            raise cause from error
        raise
