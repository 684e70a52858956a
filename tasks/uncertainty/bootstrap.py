"""The percentile bootstrap over rows.

`scipy.stats.bootstrap` does not serve: it returns NaN limits as soon as the statistic of one resample is undefined, and it
refuses a single row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["LEVEL", "RESAMPLES", "SEED", "percentile_interval", "resampled"]

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
"""Confidence level, number of resamples and seed of the intervals of areas on all pages."""

_BATCH = 1 << 18  # rows resampled at once; bounds the memory


def resampled(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, *, resamples: int, seed: int
) -> np.ndarray:
    """Return the statistic of `resamples` resamples of n rows. The resamples depend only on `n` and `seed`.

    `statistic` maps row indices [R, n], one resample per line, to values [R].
    """
    rng = np.random.default_rng(seed)
    batch = max(1, _BATCH // n)
    sizes = (min(batch, resamples - start) for start in range(0, resamples, batch))
    return np.concatenate([statistic(rng.integers(0, n, (size, n))) for size in sizes])


def percentile_interval(drawn: np.ndarray, level: float) -> tuple[float, float]:
    """Return the percentile interval of the statistic of all resamples at confidence `level`, without NaN values."""
    tail = (1.0 - level) / 2.0
    low, high = np.nanquantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)
