"""Accuracy from N samples per problem, with bootstrap intervals. Pure; `correct` is [problems][samples]."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np

from tasks.uncertainty.bootstrap import percentile_interval, resampled

__all__ = ["Estimate", "avg_at_n", "gain", "maj_at_n", "mean_estimate", "pass_at_k"]

Grades = Sequence[Sequence[bool]]


class Estimate(NamedTuple):
    """A mean over problems, its bootstrap interval, and the number of problems."""

    value: float
    low: float
    high: float
    n: int


def avg_at_n(correct: Grades) -> float:
    """Return the mean over problems of the share of correct samples, an estimate of pass@1.

    Raises `ValueError` without problems, or if a problem has no samples.
    """
    return float(np.mean(_shares(correct)))


def pass_at_k(correct: Grades, k: int) -> float:
    """Return pass@k by the unbiased estimator 1 - C(n - c, k) / C(n, k) of Chen et al. 2021 (Eq. 1), averaged over problems.

    Raises `ValueError` if a problem has fewer than `k` samples, or `k` is below 1.
    """
    _shares(correct)
    fewest = min(len(grades) for grades in correct)
    if not 1 <= k <= fewest:
        raise ValueError(
            f"pass@{k} cannot be computed with k outside 1 to {fewest}, the fewest samples of a problem"
        )
    return float(np.mean([1.0 - comb(len(m) - sum(m), k) / comb(len(m), k) for m in correct]))


def maj_at_n(labels: Sequence[Sequence[int]], correct: Grades) -> float:
    """Return the share of problems whose largest answer cluster is correct. `labels` [problems][samples]: cluster ids from 0.

    Samples without an answer have label -1 and vote as one cluster, which is wrong. Ties go to the cluster that appears first. A
    cluster is correct if its first sample is. Raises `ValueError` if lengths differ.
    """
    _shares(correct)
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


def gain(before: Grades, after: Grades, *, level: float = 0.95, seed: int = 0) -> Estimate:
    """Return avg@N of `after` minus avg@N of `before`, paired by problem so that varying difficulty does not widen the interval.

    Raises `ValueError` if the numbers of problems differ.
    """
    differences = [b - a for a, b in zip(_shares(before), _shares(after), strict=True)]
    return mean_estimate(differences, level=level, seed=seed)


def _shares(correct: Grades) -> list[float]:
    """Return the share of correct samples of each problem."""
    if not correct or any(not grades for grades in correct):
        raise ValueError("accuracy needs at least one problem, and at least one sample per problem")
    return [sum(grades) / len(grades) for grades in correct]


def _winner_is_right(labels: Sequence[int], correct: Sequence[bool]) -> bool:
    if len(labels) != len(correct):
        raise ValueError(f"{len(labels)} labels for {len(correct)} samples: give one label per sample")
    winner = max(labels, key=lambda label: (labels.count(label), -labels.index(label)))
    return winner >= 0 and bool(correct[labels.index(winner)])
