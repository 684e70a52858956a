"""Weight sync by vLLM's transfer (see `store_transfer`) from two ZeRO-3 student ranks to two engines, one of which dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.training.rollouts.test_engine import MODEL, SAMPLING, SETTINGS, World, joined, mismatch, requests
from tests.training.student.running import update
from tests.training.weight_sync.store_transfer import StoreRolloutEngine, StoreStudent
from training.losses.token_losses import TopKCrossEntropy
from training.rollouts import pool
from training.rollouts.engine import Generation, RolloutRequest
from training.student import group
from training.student.messages import RankSettings
from training.weight_sync.sync import Choice
from training.workers.actors import ActorLost
from training.workers.placement import make_placement, reserve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def world(ray_session: None) -> Iterator[World]:
    plan = make_placement("cpu", students=2, engines=2)
    place = reserve(plan)
    losses: list[str] = []
    settings = RankSettings(
        model=MODEL, total_steps=10, warmup_steps=0, learning_rate=5e-3, zero_stage=3, threads=1, clip=1e9
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "RolloutEngine", StoreRolloutEngine)
        patch.setattr(group, "Student", StoreStudent)
        engines = pool.RolloutPool(
            plan, place, replace(SETTINGS, transport="nccl", engines=2), on_loss=losses.append
        )
        student = group.StudentGroup(plan, place, settings, TopKCrossEntropy())
        student.connect()
        engines.ready()
        student.open_transfer(Choice(transport="nccl", reason="a test"), engines)
        yield World(student=student, engines=engines, losses=losses)
        engines.close()
        student.close()


def learn(world: World, asked: list[RolloutRequest], rollouts: list[Generation]) -> None:
    """Do one update of both ranks that changes the student considerably."""
    sequences = joined(asked, rollouts)
    world.student.step([update(sequences[part], [list(range(8))]) for part in (slice(0, 8), slice(8, 16))])


def kill(world: World, engine: int) -> None:
    import ray

    process: Any = ray.get(world.engines.actors[engine].process.remote())
    os.kill(process, signal.SIGKILL)


def test_both_engines_agree_with_the_student_after_every_transfer(world: World) -> None:
    asked = requests()
    world.student.sync(world.engines, 0)
    first = world.engines.generate(asked, SAMPLING)
    learn(world, asked, first)
    assert mismatch(world, asked, first)[0] > 0.05, "the student changed"
    snapshot = world.student.sync(world.engines, 1)
    assert snapshot.parts == (), "the object store is not used"
    for report in world.engines.confirm(snapshot):
        assert report.version == 1 and report.live.equal >= 1 and report.live.different == ()
    rollouts = world.engines.generate(asked, SAMPLING)
    assert mismatch(world, asked, rollouts)[0] < 0.03
    assert {one.version for one in rollouts} == {1}


def test_an_engine_that_dies_in_a_rollout_batch_is_restarted_and_joins_the_next_transfer(
    world: World,
) -> None:
    asked = requests()
    world.student.sync(world.engines, 2)
    expected = world.engines.generate(asked, SAMPLING)
    stream = world.engines.stream(asked, SAMPLING)
    found = dict([next(stream)])
    kill(world, 1)
    found |= dict(stream)
    again = world.engines.generate(asked, SAMPLING)  # the engine may have finished its share before it died
    for index, one in enumerate(expected):
        assert np.array_equal(found[index].tokens, one.tokens) and np.array_equal(
            again[index].tokens, one.tokens
        )
    assert {one.version for one in (*found.values(), *again)} == {2}
    assert len(world.losses) == 1 and "restarted with weight version 2" in world.losses[0]
    learn(world, asked, expected)
    world.student.sync(world.engines, 3)
    assert mismatch(world, asked, world.engines.generate(asked, SAMPLING))[0] < 0.03


@pytest.mark.long
def test_an_engine_that_dies_before_a_transfer_is_restarted_for_it(world: World) -> None:
    asked, losses = requests(), len(world.losses)
    kill(world, 0)
    world.student.sync(world.engines, 4)
    rollouts = world.engines.generate(asked, SAMPLING)
    assert {one.version for one in rollouts} == {4} and mismatch(world, asked, rollouts)[0] < 0.03
    assert len(world.losses) == losses + 1


def test_an_engine_cannot_be_restarted_after_the_students_weights_changed(
    world: World,
) -> None:
    asked = requests()
    learn(world, asked, world.engines.generate(asked, SAMPLING))
    kill(world, 0)
    with pytest.raises(ActorLost, match="rollout engine 0 died"):
        world.engines.generate(asked, SAMPLING)
