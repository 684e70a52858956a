"""A mean with its bootstrap interval, and the vote of N samples per problem. Pure; `correct` is [problems][samples]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.uncertainty.bootstrap import percentile_interval, resampled

__all__ = ["Estimate", "maj_at_n", "mean_estimate"]

Grades = Sequence[Sequence[bool]]


class Estimate(NamedTuple):
    """A mean over problems, its bootstrap interval, and the number of problems."""

    value: float
    low: float
    high: float
    n: int


def maj_at_n(labels: Sequence[Sequence[int]], correct: Grades) -> float:
    """Return the share of problems whose largest answer cluster is correct. `labels` [problems][samples]: cluster ids from 0.

    Samples without an answer have label -1 and vote as one cluster, which is wrong. Ties go to the cluster that appears first. A
    cluster is correct if its first sample is. Raises `ValueError` if lengths differ.
    """
    wins = [_winner_is_right(own, grades) for own, grades in zip(labels, correct, strict=True)]
    return float(np.mean(wins))


def mean_estimate(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Return the mean of one value per problem and its percentile bootstrap interval over problems; deterministic in `seed`.

    Raises `ValueError` without values, or if one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"the {array.size} values of a mean must be finite, and at least one")
    means = resampled(lambda indices: array[indices].mean(axis=1), array.size, resamples=resamples, seed=seed)
    return Estimate(float(array.mean()), *percentile_interval(means, level), int(array.size))


def _winner_is_right(labels: Sequence[int], correct: Sequence[bool]) -> bool:
    if len(labels) != len(correct):
        raise ValueError(f"{len(labels)} labels for {len(correct)} samples: give one label per sample")
    winner = max(labels, key=lambda label: (labels.count(label), -labels.index(label)))
    return winner >= 0 and bool(correct[labels.index(winner)])
