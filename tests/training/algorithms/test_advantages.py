"""Advantages: by hand, against torch's standard deviation as TRL uses it, and for groups without information."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tasks.errors import UserError
from training.algorithms.advantages import (
    TeacherAdvantage,
    group_centred,
    group_normalised,
    teacher_advantage,
)
from training.algorithms.base import Columns


def columns(rewards: Any, groups: Any, lengths: Any = None, **values: Any) -> Columns:
    return Columns(
        lengths=np.ones(len(groups), dtype=np.int64) if lengths is None else np.array(lengths),
        groups=np.array(groups, dtype=np.int64),
        rewards=None if rewards is None else np.array(rewards, dtype=np.float64),
        values={name: np.array(one, dtype=np.float32) for name, one in values.items()},
    )


def test_by_hand() -> None:
    # Group 7: rewards 1, 0, 0, 1: mean 1/2, sample variance 4 x 1/4 / 3 = 1/3. Group 2: all 1.
    made = columns([1, 0, 1, 0, 1, 1], [7, 7, 2, 7, 2, 7], lengths=[2, 1, 1, 1, 2, 1])
    a = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert group_normalised(made).tolist() == pytest.approx([a, a, -a, 0, -a, 0, 0, a], abs=1e-15)
    assert group_centred(made).tolist() == [0.5, 0.5, -0.5, 0, -0.5, 0, 0, 0.5]
    assert group_normalised(made).dtype == np.float64


@pytest.mark.parametrize("group_size", [2, 4, 8])
def test_it_equals_trls_scaling_by_group(group_size: int) -> None:
    """TRL: (r - mean) / (std + 1e-4) with the unbiased standard deviation of each group."""
    rewards = np.random.default_rng(0).random((5, group_size))
    theirs = torch.from_numpy(rewards)
    expected = (theirs - theirs.mean(1, keepdim=True)) / (theirs.std(1, keepdim=True, unbiased=True) + 1e-4)
    made = columns(rewards.ravel(), np.repeat(np.arange(5), group_size))
    assert group_normalised(made).tolist() == pytest.approx(expected.ravel().tolist(), rel=1e-12)


@pytest.mark.parametrize("advantage", [group_normalised, group_centred])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3])
@pytest.mark.parametrize("group_size", [1, 3, 7])
def test_a_group_that_agrees_has_advantage_0_exactly(advantage, reward: float, group_size: int) -> None:
    made = columns([reward] * group_size, [0] * group_size, lengths=[3] * group_size)
    assert (advantage(made) == 0).all() and len(advantage(made)) == 3 * group_size


@pytest.mark.parametrize("advantage", [group_normalised, group_centred])
def test_cutting_between_groups_changes_no_bit(advantage) -> None:
    rng = np.random.default_rng(1)
    rewards, groups, lengths = rng.random(12), np.repeat([3, 0, 9], 4), rng.integers(1, 6, 12)
    whole = advantage(columns(rewards, groups, lengths))
    parts = [
        advantage(columns(rewards[part], groups[part], lengths[part])) for part in (slice(0, 4), slice(4, 12))
    ]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("advantage", [group_normalised, group_centred])
def test_no_rollouts_and_no_rewards(advantage) -> None:
    assert len(advantage(columns([], []))) == 0
    with pytest.raises(ValueError, match="the rollouts have no rewards"):
        advantage(columns(None, [0, 0]))


def test_the_teachers_advantage_by_hand() -> None:
    made = columns(
        None,
        [0, 0],
        lengths=[2, 1],
        teacher_sampled_logprobs=[-1, -2, -0.5],
        rollout_logprobs=[-1.5, -1, -0.5],
    )
    assert teacher_advantage(made).tolist() == [0.5, -1.0, 0.0]
    assert teacher_advantage(made).dtype == np.float64


def test_missing_or_misshapen_values_are_named() -> None:
    with pytest.raises(ValueError, match="the rollouts have no teacher_sampled_logprobs"):
        teacher_advantage(columns(None, [0], rollout_logprobs=[-1]))
    with pytest.raises(ValueError, match=r"rollout_logprobs has shape \(1,\) for 2 tokens"):
        teacher_advantage(
            columns(None, [0], lengths=[2], teacher_sampled_logprobs=[-1, -1], rollout_logprobs=[-1])
        )


def test_the_teachers_advantage_is_to_the_student_where_that_is_known() -> None:
    made = columns(
        None, [0], lengths=[1], teacher_sampled_logprobs=[-1], rollout_logprobs=[-9], old_logprobs=[-3]
    )
    assert teacher_advantage(made).tolist() == [2.0]


def test_later_tokens_count_by_the_discount_within_their_response_alone() -> None:
    made = columns(
        None, [0, 0], lengths=[3, 2], teacher_sampled_logprobs=[1, 2, 4, 8, 16], rollout_logprobs=[0] * 5
    )
    assert TeacherAdvantage()(made).tolist() == [1, 2, 4, 8, 16]
    assert TeacherAdvantage(discount=1.0)(made).tolist() == [7, 6, 4, 24, 16]
    # 1 + 2/2 + 4/4, 2 + 4/2, 4; 8 + 16/2, 16
    assert TeacherAdvantage(discount=0.5)(made).tolist() == [3, 4, 4, 16, 16]
    # bounded before the sum
    assert TeacherAdvantage(discount=1.0, floor=5.0)(made).tolist() == [15, 10, 5, 24, 16]
    assert (
        len(
            TeacherAdvantage(discount=0.5)(
                columns(None, [], teacher_sampled_logprobs=[], rollout_logprobs=[])
            )
        )
        == 0
    )


def test_excluded_tokens_have_finite_advantages() -> None:
    inf = -math.inf
    made = columns(
        None, [0], lengths=[3], teacher_sampled_logprobs=[inf, inf, -1], rollout_logprobs=[-1, inf, inf]
    )
    assert TeacherAdvantage()(made).tolist() == [-999, 0, 999]
    assert TeacherAdvantage(floor=-2.5)(made).tolist() == [-2.5, 0, 999]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"discount": 1.5}, "the discount of the advantages is 1.5: give a number from 0 to 1"),
        ({"discount": math.nan}, "the discount of the advantages is nan"),
        ({"floor": -math.inf}, "the floor of the advantages is -inf: give a finite number"),
    ],
)
def test_invalid_teacher_advantages_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TeacherAdvantage(**given)
