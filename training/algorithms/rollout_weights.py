"""Rollout weights: pure functions of the rollouts to a factor of the coefficients of all tokens of a rollout. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

from training.algorithms.base import Columns, Floats, RolloutWeight

__all__ = ["Product", "answer_share", "right_only"]


def right_only(columns: Columns) -> Floats:
    """Return 1 for rollouts whose answer is right, else 0. Raises `ValueError` without rewards."""
    if columns.rewards is None:
        raise ValueError("the rollouts have no rewards: the algorithm must ask for them")
    return (columns.rewards == 1.0).astype(float)


def answer_share(columns: Columns) -> Floats:
    """Return the teacher's probability p(c) of the cluster that the answer of each rollout falls in, 0 for an answer that no
    response of the teacher has. Not from a paper: unlike w = 1 - H / log N, which is equal for all rollouts of a prompt, it
    favours the rollouts that agree with a confident teacher. Raises `ValueError` without shares."""
    if columns.answer_shares is None:
        raise ValueError("the rollouts have no answer shares: the algorithm must ask for them")
    return columns.answer_shares.astype(float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """The product of two rollout weights."""

    first: RolloutWeight
    second: RolloutWeight

    def __call__(self, columns: Columns) -> Floats:
        return self.first(columns) * self.second(columns)
