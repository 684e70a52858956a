"""Statistics of sampled answers: unbiased curves, intervals, and the paired comparison of two models. Pure.

`correct` is a bool array [problems, samples]. Functions whose name ends in `_values` return one number per problem; their mean
is the score, and resampling them is the cluster bootstrap, in which the samples of a problem stay together.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, comb, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import Estimate, maj_at_n, mean_estimate

Grades = NDArray[np.bool_]
Values = NDArray[np.float64]
POWER = 0.8
"""Power of the minimum detectable effect."""


def average_values(correct: Grades) -> Values:
    """Return each problem's share of correct samples; the mean is avg@N, which estimates pass@1."""
    return correct.mean(axis=1)


def pass_values(correct: Grades, k: int) -> Values:
    """Return each problem's pass@k by the unbiased estimator 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, Eq. 1).

    Raises `ValueError` unless 1 <= k <= samples.
    """
    n = correct.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs k from 1 to the {n} samples of a problem")
    table = np.array([1.0 - comb(n - c, k) / comb(n, k) for c in range(n + 1)])
    return table[correct.sum(axis=1)]


def stable_values(correct: Grades, k: int, tau: float) -> Values:
    """Return each problem's G-Pass@k at `tau`: the probability that at least ceil(tau k) of k samples, drawn without replacement,
    are correct (Liu et al. 2024, arXiv 2412.13147). Raises `ValueError` for k or tau out of range."""
    n = correct.shape[1]
    if not (1 <= k <= n and 0.0 <= tau <= 1.0):
        raise ValueError(f"G-Pass@{k} at {tau} needs k from 1 to {n} and tau from 0 to 1")
    return _stable_table(n, k, max(1, ceil(tau * k - 1e-9)))[correct.sum(axis=1)]


def mean_stable_values(correct: Grades, k: int) -> Values:
    """Return each problem's mG-Pass@k: twice the integral of G-Pass@k over tau from 0.5 to 1, as the sum (2 / k) times G-Pass@k
    at i / k for i from ceil(k / 2) + 1 to k. Raises `ValueError` unless 2 <= k <= samples."""
    n = correct.shape[1]
    if not 2 <= k <= n:
        raise ValueError(f"mG-Pass@{k} needs k from 2 to {n}")
    tables = [_stable_table(n, k, needed) for needed in range(ceil(k / 2) + 1, k + 1)]
    return (2.0 / k * np.sum(tables, axis=0))[correct.sum(axis=1)]


def _stable_table(n: int, k: int, needed: int) -> Values:
    """Return the probability that at least `needed` of k drawn samples are correct, by the number of correct ones among n."""
    return np.array(
        [
            sum(comb(c, j) * comb(n - c, k - j) for j in range(needed, min(c, k) + 1)) / comb(n, k)
            for c in range(n + 1)
        ]
    )


def majority_values(labels: NDArray[np.int64], correct: Grades) -> Values:
    """Return whether each problem's largest cluster is correct, as `metrics.maj_at_n` decides; label -1 is the cluster INVALID,
    which votes and is wrong."""
    rows = zip(labels.tolist(), correct.tolist(), strict=True)
    return np.array([maj_at_n([own], [grades]) for own, grades in rows])


# --- intervals ---------------------------------------------------------------------------------------------------


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Return a share of n independent trials with its Wilson score interval. Raises `ValueError` for no trial."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} trials are no share")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, scale = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    return Estimate(share, max(0.0, low), 1.0 if successes == n else min(1.0, centre + half), n)


class Spread(NamedTuple):
    """Results of several evaluation seeds: mean and sample standard deviation (None for a single seed)."""

    values: tuple[float, ...]
    mean: float
    deviation: float | None


def spread(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation (n - 1). Raises `ValueError` without values."""
    if not values:
        raise ValueError("a mean needs at least one value")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(tuple(map(float, values)), float(np.mean(values)), deviation)


# --- comparison --------------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """B minus A on the same problems. `better`, `worse`: problems with a higher, a lower score of B. `p`: two-sided exact test of
    these (`test`: McNemar's for one sample per problem, else the sign test). `detectable`: the smallest true difference that a
    two-sided test at the same level finds with power 0.8."""

    first: float
    second: float
    difference: Estimate
    better: int
    worse: int
    test: str
    p: float
    detectable: float | None


def compare(first: Values, second: Values, *, level: float = 0.95, seed: int = 0) -> Comparison:
    """Compare two models by one value per problem each, paired. Raises `ValueError` if they cannot be paired."""
    if first.shape != second.shape:
        raise ValueError(f"{first.size} and {second.size} values cannot be paired")
    differences = second - first
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    binary = bool(np.isin(np.concatenate([first, second]), (0.0, 1.0)).all())
    return Comparison(
        float(first.mean()), float(second.mean()), mean_estimate(differences.tolist(), level=level, seed=seed),
        better, worse, "McNemar" if binary else "sign test", sign_test(better, worse), detectable(differences, level),
    )  # fmt: skip


def sign_test(better: int, worse: int) -> float:
    """Return the two-sided p value of the exact sign test without ties: for paired binary results, the exact McNemar test."""
    n, few = better + worse, min(better, worse)
    return min(1.0, 2 * sum(comb(n, count) for count in range(few + 1)) / 2**n)


def detectable(differences: Values, level: float = 0.95, power: float = POWER) -> float | None:
    """Return the minimum detectable effect of a paired test with these differences: (z for level + z for power) times their
    standard error; None for fewer than two."""
    if differences.size < 2:
        return None
    normal = NormalDist()
    factor = normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)
    return float(factor * np.std(differences, ddof=1) / sqrt(differences.size))
