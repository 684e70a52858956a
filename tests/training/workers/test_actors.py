"""An actor's exception is raised unchanged; an actor's death is reported even if another actor's call fails first."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from tasks.errors import UserError
from training.workers.actors import ActorLost, result, results

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def call(work: Callable[[], Any]) -> Any:
    """Run `work` in a new actor, which is kept alive until the test's Ray session ends."""
    import ray

    class Worker:
        def run(self) -> Any:
            return work()

    actor = cast(Any, ray.remote)(Worker).options(num_cpus=0).remote()
    return _kept(actor, actor.run.remote())


_ACTORS: list[Any] = []


def _kept(actor: Any, reference: Any) -> Any:
    _ACTORS.append(actor)
    return reference


def refuse() -> None:
    raise UserError("the dataset has no weights: export it again")


def die() -> None:
    time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def break_down() -> None:
    raise RuntimeError("Connection reset by peer")


def test_results_come_in_the_order_of_the_calls() -> None:
    assert results([call(lambda: (time.sleep(0.5), 1)[1]), call(lambda: 2)], "a worker") == [1, 2]


def test_a_user_error_is_raised_unchanged_and_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        results([call(lambda: time.sleep(60)), call(refuse)], "a worker")
    assert str(caught.value) == "the dataset has no weights: export it again"
    assert time.monotonic() - started < 50


def test_the_death_of_a_process_raises_actor_lost() -> None:
    with pytest.raises(ActorLost, match=r"^a worker died: ") as caught:
        result(call(die), "a worker")
    assert caught.value.who == "a worker"


def test_a_call_that_exceeds_its_limit_raises_actor_lost() -> None:
    with pytest.raises(ActorLost, match=r"^a worker died: no result within 1 s$"):
        results([call(lambda: 1), call(lambda: time.sleep(60))], "a worker", limit_s=1.0)


def test_the_death_of_an_actor_called_by_an_actor_raises_actor_lost() -> None:
    import ray

    class Caller:
        def ask(self, other: Any) -> Any:
            return ray.get(other.run.remote())

    class Dying:
        def run(self) -> None:
            die()

    caller, dying = (cast(Any, ray.remote)(kind).options(num_cpus=0).remote() for kind in (Caller, Dying))
    with pytest.raises(ActorLost, match=r"^an actor that a student called died: "):
        result(caller.ask.remote(_kept(dying, dying)), "a student")


def test_a_collective_broken_by_a_dead_rank_raises_actor_lost() -> None:
    with pytest.raises(ActorLost):
        results([call(break_down), call(die)], "a student")


def test_the_loss_of_an_object_owned_by_a_dead_actor_raises_actor_lost() -> None:
    import ray

    class Owner:
        def put(self) -> list[Any]:
            return [ray.put(np.zeros(10**6))]

    class Reader:
        def read(self, parts: list[Any]) -> int:
            return len(ray.get(parts[0]))

    owner, reader = (cast(Any, ray.remote)(kind).options(num_cpus=0).remote() for kind in (Owner, Reader))
    parts = result(owner.put.remote(), "a student")
    assert result(reader.read.remote(parts), "an engine") == 10**6
    other = _kept(owner, cast(Any, ray.remote)(Reader).options(num_cpus=0).remote())
    ray.kill(owner)
    time.sleep(2.0)
    with pytest.raises(ActorLost, match=r"^the owner of an object passed to an engine died: "):
        result(other.read.remote(parts), "an engine")


def test_an_error_without_a_death_is_raised_unchanged() -> None:
    with pytest.raises(RuntimeError, match="Connection reset"):
        results([call(break_down), call(break_down)], "a student")
