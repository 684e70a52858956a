"""Losses that compare whole sequences, as functions of their summed log-probabilities. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.errors import UserError
from training.algorithms.base import Floats, Sequences

__all__ = ["Preference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """DPO (arXiv:2305.18290, Eq. 7) between the rollouts of a prompt, times `weight`: the mean over all wrong rollouts of
    -log sigmoid(beta (m_right - m_wrong)), where m is log p_student - log p_reference of a whole response and *right* is the
    first right rollout of the same prompt. Prompts without a right or without a wrong rollout contribute nothing; without any
    pair the loss is 0. Raises `ValueError` without rewards or a reference."""

    beta: float = 0.1
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError(f"the preference's beta is {self.beta}: give a number above 0")

    def __call__(self, sequences: Sequences) -> tuple[float, Floats]:
        if sequences.rewards is None or sequences.reference is None:
            raise ValueError("the preference needs rewards and a reference: the algorithm must ask for them")
        margins = sequences.logprobs - sequences.reference
        slopes = np.zeros(len(margins))
        pairs = _pairs(sequences.groups, sequences.rewards == 1.0)
        total = 0.0
        for right, wrong in pairs:
            difference = self.beta * (margins[right] - margins[wrong])
            total += float(np.logaddexp(0.0, -difference))
            slope = self.weight * self.beta / (1.0 + np.exp(difference)) / len(pairs)
            slopes[right] -= slope
            slopes[wrong] += slope
        return (self.weight * total / len(pairs) if pairs else 0.0), slopes


def _pairs(groups: np.ndarray, right: np.ndarray) -> list[tuple[int, int]]:
    """Return (first right rollout of the group, wrong rollout) for every wrong rollout of a group that has a right one."""
    first = {int(groups[index]): int(index) for index in reversed(np.flatnonzero(right))}
    return [(first[int(groups[i])], int(i)) for i in np.flatnonzero(~right) if int(groups[i]) in first]
