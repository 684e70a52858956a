"""Token weights: the position weight of PW-OPSD and truncated importance sampling, by hand and by their formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tasks.errors import UserError
from training.algorithms.base import Columns
from training.algorithms.token_weights import SCHEDULES, PositionWeight, truncated_importance


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
