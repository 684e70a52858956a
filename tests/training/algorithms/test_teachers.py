"""A step with several teachers: what the teacher of each prompt gives, and the sum of the steps with each teacher alone, for all
methods whose teacher scores rollouts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.algorithms.made_up_update import World, batch_of, plan_of, step, world
from training.loss_inputs import part_inputs

METHODS: dict[str, dict[str, Any]] = {
    "uopd": {"top_k": 8, "reference_kl_coefficient": 0.1},
    "uopd_pw": {"top_k": 8},
    "opd_rkl": {"prompt_weight": "soft"},
    "uopd_eopd": {},
    "reopold": {"prompt_weight": "soft"},
    "core": {"prompt_weight": "soft", "top_k": 8},
}
SHOWN: tuple[Any, ...] = ((0, "solution"), (2, "teacher"))


def made_of(name: str, seed: int = 5) -> World:
    """Return rollouts; those of REOPOLD are of its second phase, whose denominator does not depend on the teacher."""
    shown = SHOWN if name == "core" else ()
    return replace(world(groups=4, size=3, seed=seed, shown=shown), step=100 if name == "reopold" else 0)


def plan(name: str, routing: str | None = None) -> Any:
    return plan_of(name, None, routing, **METHODS[name])


def other(made: World) -> Tensor:
    return made.teacher + torch.randn(made.teacher.shape, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("name", METHODS)
def test_each_prompt_gets_the_scores_of_its_teacher(name: str) -> None:
    made, chosen = made_of(name), np.array([0, 1, 1, 0])
    second = other(made)
    groups = batch_of(made, plan(name)).group_numbers
    of_tokens = torch.from_numpy(np.repeat(chosen[groups], made.lengths) == 1)[:, None]
    alone = replace(made, teacher=torch.where(of_tokens, second, made.teacher))
    routed = replace(made, teachers=(made.teacher, second), routes=np.eye(2)[chosen])
    expected, found = step(alone, plan(name)), step(routed, plan(name, "lowest_entropy"))
    assert expected[0] == found[0] and torch.equal(expected[1], found[1])
    assert torch.equal(expected[2], found[2]) and expected[0] != step(made, plan(name))[0]


@pytest.mark.parametrize("name", METHODS)
def test_two_equal_teachers_with_equal_shares_are_bitwise_one(name: str) -> None:
    made = made_of(name)
    mixed = replace(made, teachers=(made.teacher, made.teacher), routes=np.full((4, 2), 0.5))
    for updates, update in ((1, 0), (2, 1)):
        expected = step(made, plan(name), updates=updates, update=update)
        found = step(mixed, plan(name, "weighted"), updates=updates, update=update)
        assert expected[0] == found[0]
        assert torch.equal(expected[1], found[1]) and torch.equal(expected[2], found[2])
        for one, values in expected[3].items():
            assert torch.equal(values.nan_to_num(-7.0), found[3][one].nan_to_num(-7.0)), one


@pytest.mark.parametrize("name", METHODS)
def test_a_mixture_is_the_sum_of_the_steps_with_each_teacher_by_its_share(name: str) -> None:
    made = made_of(name)
    routes = np.array([[0.75, 0.25], [0.4, 0.6], [1.0, 0.0], [0.0, 1.0]])
    teachers = (made.teacher, other(made))
    loss, hidden, head = 0.0, torch.zeros_like(made.hidden), torch.zeros_like(made.head)
    for number, logits in enumerate(teachers):
        shares = np.repeat(routes[:, number], made.size)
        alone = step(replace(made, teacher=logits, weights=made.weights * shares), plan(name))
        loss, hidden, head = loss + alone[0], hidden + alone[1], head + alone[2]
    found = step(replace(made, teachers=teachers, routes=routes), plan(name, "weighted"))
    assert found[0] == pytest.approx(loss, rel=1e-6, abs=1e-9)
    torch.testing.assert_close(found[1], hidden, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(found[2], head, rtol=1e-5, atol=1e-8)


def test_the_denominator_of_a_mixture_counts_tokens_by_the_shares() -> None:
    """The first phase of REOPOLD: 1 over the sum over rollouts and teachers of share x chosen tokens, by plain loops."""
    made = replace(made_of("reopold"), step=0)
    routes = np.array([[0.75, 0.25], [0.4, 0.6], [1.0, 0.0], [0.0, 1.0]])
    mixed = replace(made, teachers=(made.teacher, other(made)), routes=routes)
    chosen_plan = plan("reopold", "weighted")
    batch, floor = batch_of(mixed, chosen_plan), chosen_plan.algorithm.token_weight.floor
    old, expected, total = made.at(made.old).float(), {}, 0.0
    for index, span in enumerate(made.spans()):
        for teacher, logits in enumerate(mixed.teachers):
            share = routes[index // made.size, teacher]
            advantage = made.at(logits).float()[span].double() - old[span].double()
            masks = (advantage >= floor).double().numpy()
            expected[index, teacher] = made.weights[index] * share * masks
            total += share * masks.sum()
    for part, indices in enumerate(batch.updates[0]):
        given = part_inputs(batch, 0, part, chosen_plan)
        rows = np.stack(
            [np.concatenate([expected[index, teacher] for index in indices]) for teacher in range(2)], axis=1
        )
        np.testing.assert_allclose(given.coefficients, rows.sum(1) / total, rtol=1e-12)
        found = given.signals["teacher_factors"] * given.coefficients[:, None]
        np.testing.assert_allclose(found, rows / total, rtol=1e-6, atol=1e-12)
