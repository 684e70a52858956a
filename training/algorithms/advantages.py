"""Advantages: pure functions of rewards and log-probabilities to a signed number for every response token. NumPy only.

They are constants of the loss: no gradient passes through them. All raise `ValueError` if what they need is missing.
"""

from __future__ import annotations

import numpy as np

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


def teacher_advantage(columns: Columns) -> Floats:
    """Return log p_teacher - log p_rollout of each sampled token, the advantage of EOPD."""
    return of_tokens(columns, "teacher_sampled_logprobs") - of_tokens(columns, "rollout_logprobs")


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
