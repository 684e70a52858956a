"""Advantages: pure functions of rewards and log-probabilities to a signed number for every response token. NumPy only.

They are constants of the loss: no gradient passes through them. All raise `ValueError` if what they need is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np

from tasks.errors import UserError
from training.algorithms.base import Columns, Floats

STD_FLOOR = 1e-4
"""Added to a group's standard deviation, as in TRL, so that groups of almost equal rewards are not amplified without bound."""


def group_normalised(columns: Columns) -> Floats:
    """Return (r - mean) / (std + 1e-4) over the rollout's group, the advantage of GRPO (DeepSeekMath, arXiv:2402.03300, 4.1.2).

    The paper does not say which standard deviation it uses. This is the sample standard deviation (divided by K - 1), as in TRL
    and in DeepSeekMath's successors. A group whose rewards agree, or that has one rollout, has advantage 0 exactly.
    """
    deviations, members, groups = _deviations(columns)
    squares = np.bincount(groups, weights=deviations**2)
    std = np.sqrt(squares / np.maximum(members - 1, 1))
    return np.repeat(deviations / (std[groups] + STD_FLOOR), columns.lengths)


def group_centred(columns: Columns) -> Floats:
    """Return r - mean over the rollout's group, the advantage of Dr. GRPO (arXiv:2503.20783)."""
    return np.repeat(_deviations(columns)[0], columns.lengths)


LOWEST_LOGPROB = -1000.0
"""What the log-probability of an excluded token, which is -inf, counts as, so that advantages are finite."""


def teacher_advantage(columns: Columns) -> Floats:
    """Return log p_teacher - log p_old of each sampled token, the advantage of EOPD. p_old is the denominator of the policy's
    ratio: the student before the first update where that is known, else the rollout engine."""
    old = "old_logprobs" if "old_logprobs" in columns.values else "rollout_logprobs"
    teacher, own = of_tokens(columns, "teacher_sampled_logprobs"), of_tokens(columns, old)
    return np.maximum(teacher, LOWEST_LOGPROB) - np.maximum(own, LOWEST_LOGPROB)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherAdvantage:
    """The sum of `teacher_advantage` over this token and the later ones of its response, where each step further counts
    `discount` times as much. 0: the token alone, as in EOPD. `floor`: the least value of a token, before the sum; None: no
    bound."""

    discount: float = 0.0
    floor: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.discount <= 1.0:
            raise UserError(f"the discount of the advantages is {self.discount}: give a number from 0 to 1")
        if self.floor is not None and not isfinite(self.floor):
            raise UserError(f"the floor of the advantages is {self.floor}: give a finite number")

    def __call__(self, columns: Columns) -> Floats:
        found = teacher_advantage(columns)
        if self.floor is not None:
            found = np.maximum(found, self.floor)
        if self.discount > 0.0:
            last = np.zeros(len(found), dtype=np.bool_)
            last[np.cumsum(columns.lengths) - 1] = True
            for token in range(len(found) - 2, -1, -1):
                if not last[token]:
                    found[token] += self.discount * found[token + 1]
        return found


def of_tokens(columns: Columns, name: str) -> Floats:
    """Return the values [T] of that name as float64. Raises `ValueError` if there are none, or not one for every token."""
    values = columns.values
    if name not in values:
        raise ValueError(f"the rollouts have no {name}: the algorithm must ask for them")
    if values[name].shape != (columns.lengths.sum(),):
        raise ValueError(
            f"{name} has shape {values[name].shape} for {columns.lengths.sum()} tokens: it must have one value for each"
        )
    return values[name].astype(np.float64)


def _deviations(columns: Columns) -> tuple[Floats, np.ndarray, np.ndarray]:
    """Return r - mean [S], exactly 0 in groups that agree; the number of rollouts of each group; the group [S] of each."""
    if columns.rewards is None:
        raise ValueError("the rollouts have no rewards: the algorithm must ask for them")
    _, groups, members = np.unique(columns.groups, return_inverse=True, return_counts=True)
    rewards = columns.rewards.astype(np.float64)
    lowest, highest = np.full(len(members), np.inf), np.full(len(members), -np.inf)
    np.minimum.at(lowest, groups, rewards)
    np.maximum.at(highest, groups, rewards)
    means = np.where(lowest == highest, lowest, np.bincount(groups, weights=rewards) / members)
    return rewards - means[groups], members, groups
