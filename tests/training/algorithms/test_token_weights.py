"""Token weights: the position weight of PW-OPSD and truncated importance sampling, by hand and by their formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tasks.errors import UserError
from training.algorithms.base import Columns
from training.algorithms.token_weights import (
    SCHEDULES,
    PositionWeight,
    Product,
    RandomTokens,
    TeacherUncertain,
    TwoPhases,
    truncated_importance,
)


def columns(lengths: Any, **values: Any) -> Columns:
    counts = np.array(lengths, dtype=np.int64)
    return Columns(
        lengths=counts,
        groups=np.arange(len(counts)),
        values={name: np.array(one, dtype=np.float32) for name, one in values.items()},
    )


def test_the_position_weight_by_hand() -> None:
    # One token: r = 1/2. Two: 1/4 and 3/4. With w_min 1/5, tau 1/2, s = 1 / (4 log 3): sigmoid 1/2, and log-odds -+ log 3 give
    # 1/4 and 3/4; w = 1/5 + 4/5 x (1/2, 1/4, 3/4)
    weight = PositionWeight(w_min=0.2, tau=0.5, s=1 / (4 * math.log(3)))
    assert weight(columns([1, 2])).tolist() == pytest.approx([0.6, 0.4, 0.8], abs=1e-15)


@pytest.mark.parametrize(
    ("name", "w_min", "tau", "s"),
    [
        ("mild", 0.5, 0.2, 0.2),
        ("moderate", 0.25, 0.3, 0.1),
        ("sharp", 0.1, 0.4, 0.05),
        ("aggressive", 0.05, 0.5, 0.05),
    ],
)
def test_the_papers_schedules(name: str, w_min: float, tau: float, s: float) -> None:
    lengths = [5, 1, 300]
    expected = [
        w_min + (1 - w_min) / (1 + math.exp(-((t - 0.5) / length - tau) / s))
        for length in lengths
        for t in range(1, length + 1)
    ]
    got = SCHEDULES[name](columns(lengths))
    assert got.tolist() == pytest.approx(expected, rel=1e-12)
    assert got.dtype == np.float64 and (np.diff(got[6:]) > 0).all() and got.min() >= w_min and got.max() <= 1


def test_an_abrupt_schedule_is_a_step_and_a_weight_of_1_is_constant() -> None:
    step = PositionWeight(w_min=0.0, tau=0.5, s=1e-300)(columns([4]))
    assert step.tolist() == [0, 0, 1, 1]
    assert (PositionWeight(w_min=1.0, tau=0.3, s=0.1)(columns([4])) == 1).all()


def test_cutting_the_batch_changes_no_weight() -> None:
    weight = SCHEDULES["moderate"]
    parts = [weight(columns([3])), weight(columns([8, 1])), weight(columns([]))]
    assert np.concatenate(parts).tobytes() == weight(columns([3, 8, 1])).tobytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"w_min": -0.1, "tau": 0.3, "s": 0.1}, "w_min is -0.1: give a number from 0 to 1"),
        ({"w_min": math.nan, "tau": 0.3, "s": 0.1}, "w_min is nan"),
        ({"w_min": 0.1, "tau": math.inf, "s": 0.1}, "tau is inf"),
        ({"w_min": 0.1, "tau": 0.3, "s": 0.0}, "s is 0.0: give a finite number above 0"),
    ],
)
def test_invalid_schedules_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PositionWeight(**settings)


# Two responses. Ratios of the tokens: 2, 1/2, 4 and 3, 1; of the responses: 4 and 3.
RATIOS = columns(
    [3, 2],
    old_logprobs=np.log([0.5, 0.25, 1.0, 0.75, 0.5]),
    rollout_logprobs=np.log([0.25, 0.5, 0.25, 0.25, 0.5]),
)


@pytest.mark.parametrize(
    ("kind", "cap", "expected"),
    [
        ("none", 2.0, [1, 1, 1, 1, 1]),
        ("token", 2.5, [2, 0.5, 2.5, 2.5, 1]),
        ("token", math.inf, [2, 0.5, 4, 3, 1]),
        ("sequence", 10.0, [4, 4, 4, 3, 3]),
        ("sequence", 3.5, [3.5, 3.5, 3.5, 3, 3]),
    ],
)
def test_truncated_importance_by_hand(kind, cap: float, expected: list[float]) -> None:
    got = truncated_importance(RATIOS, kind, cap)
    assert got.dtype == np.float64 and got.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_it_equals_the_importance_ratios_of_trl(kind) -> None:
    """TRL's modes token_truncate and sequence_truncate: exp of the difference, or of its sum, clamped from above."""
    draw = np.random.default_rng(2)
    lengths = np.array([4, 1, 6])
    old, engine = -draw.random((2, 11)).astype(np.float32)
    mask = torch.arange(6) < torch.from_numpy(lengths)[:, None]
    difference = torch.zeros(3, 6).masked_scatter(mask, torch.from_numpy(old - engine))
    if kind == "sequence":
        difference = difference.sum(-1, keepdim=True)
    expected = torch.clamp(difference.exp(), max=1.2).expand(3, 6)[mask]
    got = truncated_importance(columns(lengths, old_logprobs=old, rollout_logprobs=engine), kind, 1.2)
    assert got.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert np.isclose(got, 1.2).any() and (got < 1.1).any()


@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_far_apart_and_excluded_tokens_stay_finite(kind) -> None:
    made = columns([3], old_logprobs=[0.0, -math.inf, -1.0], rollout_logprobs=[-1e4, -math.inf, -1.0])
    assert truncated_importance(made, kind, 2.0).max() == pytest.approx(2.0)
    gone = columns([2], old_logprobs=[-math.inf, -1.0], rollout_logprobs=[-1.0, -1.0])
    assert truncated_importance(gone, kind, 2.0).tolist() == [0.0, 1.0 if kind == "token" else 0.0]
    assert len(truncated_importance(columns([], old_logprobs=[], rollout_logprobs=[]), kind, 2.0)) == 0


def test_what_is_missing_or_invalid_is_named() -> None:
    with pytest.raises(UserError, match="the cap of the importance ratio is 0"):
        truncated_importance(RATIOS, "token", 0.0)
    with pytest.raises(ValueError, match="the rollouts have no old_logprobs"):
        truncated_importance(columns([1], rollout_logprobs=[-1]), "token", 2.0)
    assert truncated_importance(columns([2]), "none", 2.0).tolist() == [1, 1]


# --- choices of tokens -------------------------------------------------------------------------------------------


def seeded(lengths: list[int], seeds: list[int]) -> Columns:
    return replace(columns(lengths), seeds=np.array(seeds, dtype=np.uint64))


def test_the_teachers_uncertain_tokens_are_those_above_the_threshold() -> None:
    made = columns([3], teacher_entropy=[0.75, 0.8125, 1.0])
    assert TeacherUncertain(threshold=0.75)(made).tolist() == [0, 1, 1]  # above, not at it
    assert TeacherUncertain(threshold=0.9)(made).tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="the rollouts have no teacher_entropy"):
        TeacherUncertain()(columns([1]))


def test_random_tokens_have_their_share_and_depend_on_seed_and_place_alone() -> None:
    weight, seeds = RandomTokens(share=0.2), [2**63 - 1, 0, 12345]
    chosen = weight(seeded([4000, 4000, 4000], seeds)).reshape(3, 4000)
    assert chosen.mean(1) == pytest.approx([0.2] * 3, abs=0.02)
    assert 0.01 < (chosen[0] * chosen[1]).mean() < 0.07  # different draws for different rollouts
    for place, seed in enumerate(seeds):  # alone, in another order, of another length
        assert weight(seeded([50], [seed])).tolist() == chosen[place][:50].tolist()
    again = weight(seeded([10, 20], [seeds[2], seeds[0]]))
    assert again.tolist() == [*chosen[2][:10], *chosen[0][:20]]
    assert (RandomTokens(share=1.0)(seeded([100], [3])) == 1).all()
    assert len(weight(seeded([], []))) == 0
    with pytest.raises(ValueError, match="random tokens need the rollouts' seeds"):
        weight(columns([1]))


def test_the_two_phases_by_hand() -> None:
    weight = TwoPhases(floor=-2.0, switch_step=3, share=0.5)
    made = columns(
        [2, 3],
        teacher_sampled_logprobs=[-1, -4, -3, -2.5, -9],
        old_logprobs=[-1, -1, -1, -1, -1],
        student_entropy=[0.5, 2.0, 1.0, 1.5, 0.1],
    )
    # log-ratios 0, -3, -2, -1.5, -8
    for step in (0, 2):
        assert weight(replace(made, step=step)).tolist() == [1, 0, 1, 1, 0]
    # the median entropy is 1.0
    assert weight(replace(made, step=3)).tolist() == [0, 1, 1, 1, 0]
    assert TwoPhases(floor=-2.0, switch_step=0, share=0.2)(made).tolist() == [0, 1, 0, 0, 0]
    assert len(weight(replace(columns([], student_entropy=[]), step=3))) == 0
    equal = columns([3], student_entropy=[0.7, 0.7, 0.7])
    assert weight(replace(equal, step=3)).tolist() == [1, 1, 1]


def test_a_product_multiplies() -> None:
    made = columns([2, 1], teacher_entropy=[1, 0, 1])
    both = Product(first=TeacherUncertain(), second=SCHEDULES["mild"])
    assert both(made).tolist() == (SCHEDULES["mild"](made) * [1, 0, 1]).tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TeacherUncertain(threshold=math.nan), "the threshold of the teacher's entropy is nan"),
        (
            lambda: RandomTokens(share=0.0),
            "the share of random tokens is 0.0: give a number above 0, up to 1",
        ),
        (lambda: RandomTokens(share=1.5), "the share of random tokens is 1.5"),
        (
            lambda: TwoPhases(floor=-math.inf, switch_step=0, share=0.2),
            "the floor of the first phase is -inf",
        ),
        (lambda: TwoPhases(floor=0.0, switch_step=-1, share=0.2), "the step of the second phase is -1"),
        (lambda: TwoPhases(floor=0.0, switch_step=0, share=0.0), "tokens of the second phase is 0.0"),
    ],
)
def test_invalid_choices_of_tokens_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
