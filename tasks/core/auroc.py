"""Area under the ROC curve with a bootstrap interval: does a score find the positives?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Auroc(NamedTuple):
    """The probability that a positive scores above a negative, its interval, and the number of rows."""

    value: float
    low: float
    high: float
    n: int


def auroc(
    scores: Sequence[float],
    positives: Sequence[bool],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Auroc:
    """AUROC of `scores` against `positives`: P(score of a positive > score of a negative), a tie counting one half.

    The interval is the percentile bootstrap at `level`, stratified: positives and negatives are redrawn each among
    themselves, so every resample is defined. It is deterministic in `seed`. Under perfect separation it has no width.

    Raises ValueError for lists of different length, a NaN score (the row is named), or when either class is empty.
    """
    values = np.asarray(scores, dtype=np.float64)
    marks = np.asarray(positives, dtype=bool)
    if values.shape != marks.shape or values.ndim != 1:
        raise ValueError(f"{values.size} scores for {marks.size} labels: give one of each per row")
    if np.isnan(values).any():
        raise ValueError(f"the score of row {int(np.isnan(values).argmax())} is not a number")
    if not marks.any() or marks.all():
        raise ValueError(
            f"AUROC needs positives and negatives: {int(marks.sum())} of {marks.size} rows are positive"
        )
    levels = np.unique(values, return_inverse=True)[1]
    size = int(levels.max()) + 1
    hits, misses = np.bincount(levels[marks], minlength=size), np.bincount(levels[~marks], minlength=size)
    rng = np.random.default_rng(seed)
    drawn = [_area(_redraw(hits, rng), _redraw(misses, rng)) for _ in range(resamples)]
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Auroc(_area(hits, misses), float(low), float(high), int(marks.size))


def _area(hits: np.ndarray, misses: np.ndarray) -> float:
    """The area from the numbers of positives and negatives at each distinct score, in rising order of score."""
    below = np.cumsum(misses) - misses / 2.0
    return float(hits @ below) / (float(hits.sum()) * float(misses.sum()))


def _redraw(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    total = int(counts.sum())
    return rng.multinomial(total, counts / total)
