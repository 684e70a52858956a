"""Accuracies over N samples a problem, and how far they can be trusted. Pure; `correct` is [problems][samples]."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np

__all__ = ["Estimate", "avg_at_n", "gain", "maj_at_n", "mean_estimate", "pass_at_k"]

Marks = Sequence[Sequence[bool]]


class Estimate(NamedTuple):
    """A mean over problems, its bootstrap interval, and the number of problems."""

    value: float
    low: float
    high: float
    n: int


def avg_at_n(correct: Marks) -> float:
    """Mean over problems of the share of right samples: pass@1 as estimated from N samples.

    Raises ValueError when there is no problem, or a problem has no sample.
    """
    return float(np.mean(_shares(correct)))


def pass_at_k(correct: Marks, k: int) -> float:
    """The unbiased estimate 1 - C(n - c, k) / C(n, k) of Chen et al. 2021 (eq. 1), averaged over problems.

    Raises ValueError when a problem has fewer than `k` samples, or `k` is below 1.
    """
    _shares(correct)
    fewest = min(len(marks) for marks in correct)
    if not 1 <= k <= fewest:
        raise ValueError(
            f"pass@{k} needs at least 1 and at most {fewest} samples a problem: that is all there are"
        )
    return float(np.mean([1.0 - comb(len(m) - sum(m), k) / comb(len(m), k) for m in correct]))


def maj_at_n(labels: Sequence[Sequence[int]], correct: Marks) -> float:
    """Share of problems whose largest cluster is right. A problem's `labels` number its answers' clusters from 0.

    Label -1 marks the samples without an answer: they vote as one cluster, which is wrong. Ties go to the cluster that
    appears first. A cluster is right when its first sample is. Raises ValueError when lengths differ.
    """
    _shares(correct)
    wins = [_winner_is_right(own, marks) for own, marks in zip(labels, correct, strict=True)]
    return float(np.mean(wins))


def mean_estimate(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The mean of one value a problem, with the percentile bootstrap over problems; deterministic in `seed`.

    Raises ValueError when there is no value or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"a mean over {array.size} problems needs at least one, and finite values only")
    rng = np.random.default_rng(seed)
    means = [float(array[rng.integers(0, array.size, array.size)].mean()) for _ in range(resamples)]
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Estimate(float(array.mean()), float(low), float(high), int(array.size))


def gain(before: Marks, after: Marks, *, level: float = 0.95, seed: int = 0) -> Estimate:
    """avg@N of `after` minus that of `before`, problem by problem, so that hard problems do not widen the interval.

    Raises ValueError when the two do not hold the same number of problems.
    """
    differences = [b - a for a, b in zip(_shares(before), _shares(after), strict=True)]
    return mean_estimate(differences, level=level, seed=seed)


def _shares(correct: Marks) -> list[float]:
    """The share of right samples of each problem."""
    if not correct or any(not marks for marks in correct):
        raise ValueError("accuracy needs at least one problem, and at least one sample of each")
    return [sum(marks) / len(marks) for marks in correct]


def _winner_is_right(labels: Sequence[int], correct: Sequence[bool]) -> bool:
    if len(labels) != len(correct):
        raise ValueError(f"{len(labels)} labels for {len(correct)} samples: give one of each")
    winner = max(labels, key=lambda label: (labels.count(label), -labels.index(label)))
    return winner >= 0 and bool(correct[labels.index(winner)])
