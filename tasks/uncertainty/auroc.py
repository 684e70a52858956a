"""Areas under the ROC curve and the risk-coverage curve of a score, with bootstrap intervals.

A row is one problem, the unit that the bootstrap resamples. Row i has one score, which applies to all of its `totals[i]`
members (e.g. its samples), `positives[i]` of which are positive. Without `totals` every row is a single member. The rows are
sorted before they are resampled, so that areas and intervals do not depend on the order of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tasks.uncertainty.bootstrap import LEVEL, RESAMPLES, SEED, percentile_interval, resampled

__all__ = ["Area", "aurc", "auroc", "auroc_gain", "auroc_if_defined"]


class Area(NamedTuple):
    """An area (or a difference of two), its bootstrap interval, and the number of rows."""

    value: float
    low: float
    high: float
    n: int


def auroc(
    scores: Sequence[float],
    positives: Sequence[bool] | Sequence[int],
    totals: Sequence[int] | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Area:
    """Return the AUROC: P(score of a positive > score of a negative), with ties counted as one half.

    The interval is the percentile bootstrap over rows at confidence `level`, deterministic in `seed`. Resamples without
    positives or without negatives are skipped. Under perfect separation the interval has width zero.

    Raises ValueError for lists of different length, a NaN score (naming the row), impossible counts, or if there are no
    positives or no negatives.
    """
    rows = _Rows(scores, positives, totals)
    rows.need_both()
    _sort(rows)
    return _interval(*_areas(rows, _roc, resamples, seed), level, rows.n)


def auroc_if_defined(
    scores: Sequence[float],
    positives: Sequence[bool] | Sequence[int],
    totals: Sequence[int] | None = None,
) -> Area | None:
    """Return the AUROC with its usual interval; None if all members are positive, or none is. Other errors as in `auroc`."""
    members = len(positives) if totals is None else sum(totals)
    return auroc(scores, positives, totals) if 0 < sum(positives) < members else None


def auroc_gain(
    scores: Sequence[float],
    rival: Sequence[float],
    positives: Sequence[bool] | Sequence[int],
    totals: Sequence[int] | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Area:
    """Return the AUROC of `scores` minus that of `rival`, on the same resamples. Interval and errors as in `auroc`."""
    ours, theirs = _Rows(scores, positives, totals), _Rows(rival, positives, totals)
    ours.need_both()
    _sort(ours, theirs)
    value, drawn = _areas(ours, _roc, resamples, seed)
    other, others = _areas(theirs, _roc, resamples, seed)
    return _interval(value - other, drawn - others, level, ours.n)


def aurc(
    scores: Sequence[float],
    positives: Sequence[bool] | Sequence[int],
    totals: Sequence[int] | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Area:
    """Return the area under the risk-coverage curve (Geifman and El-Yaniv 2017).

    This is the share of positives (errors) among the k members of lowest score, averaged over k = 1, ..., n. Smaller is
    better; a constant score gives the overall share of positives. Ties are averaged exactly over all orders of the tied
    members, so the result does not depend on the order of the rows.

    Interval and errors as in `auroc`, except that all members may be positive, or all negative.
    """
    rows = _Rows(scores, positives, totals)
    _sort(rows)
    return _interval(*_areas(rows, _Risk(rows.n * rows.largest), resamples, seed), level, rows.n)


class _Rows:
    """Validated input. `levels` holds the dense ranks of the scores."""

    def __init__(
        self, scores: Sequence[float], positives: Sequence[bool] | Sequence[int], totals: Sequence[int] | None
    ) -> None:
        values = np.asarray(scores, dtype=np.float64)
        self.positives = np.asarray(positives, dtype=np.int64)
        self.totals = np.ones_like(self.positives) if totals is None else np.asarray(totals, dtype=np.int64)
        if not values.shape == self.positives.shape == self.totals.shape or values.ndim != 1:
            raise ValueError(
                f"{values.size} scores for {self.positives.size} labels: give one of each per row"
            )
        if np.isnan(values).any():
            raise ValueError(
                f"the score of row {int(np.isnan(values).argmax())} is not a number: drop the row"
            )
        wrong = (self.totals < 1) | (self.positives < 0) | (self.positives > self.totals)
        if not values.size or wrong.any():
            where = f"row {int(wrong.argmax())} has {self.positives[wrong][0]} positives of {self.totals[wrong][0]}" \
                if values.size else "there are no rows"  # fmt: skip
            raise ValueError(f"an area needs rows with members, some of them positive: {where}")
        self.n, self.largest = int(values.size), int(self.totals.max())
        self.levels = np.unique(values, return_inverse=True)[1]

    def need_both(self) -> None:
        """Raise ValueError unless there are both positives and negatives."""
        found, members = int(self.positives.sum()), int(self.totals.sum())
        if found in (0, members):
            what = "rows" if members == self.n else "members"
            raise ValueError(
                f"AUROC needs both positives and negatives: {found} of {members} {what} are positive"
            )

    def by_level(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positives and negatives at each distinct score, ascending, two arrays of shape [R, levels].

        `times[r, i]` is how often resample r contains row i.
        """
        resamples, size = len(times), int(self.levels.max()) + 1
        places = (np.arange(resamples)[:, None] * size + self.levels).ravel()

        def counted(members: np.ndarray) -> np.ndarray:
            found = np.bincount(places, weights=(times * members).ravel(), minlength=resamples * size)
            return found.reshape(resamples, size)

        return counted(self.positives), counted(self.totals - self.positives)


def _sort(first: _Rows, *others: _Rows) -> None:
    """Sort rows that differ in their scores only, by these scores, then by positives and totals."""
    order = np.lexsort((first.totals, first.positives, *(rows.levels for rows in reversed((first, *others)))))
    for rows in (first, *others):
        rows.levels, rows.positives, rows.totals = (
            rows.levels[order],
            rows.positives[order],
            rows.totals[order],
        )


Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]  # positives and negatives [R, levels] -> areas [R]


def _areas(rows: _Rows, measure: Measure, resamples: int, seed: int) -> tuple[float, np.ndarray]:
    """Return the measure of the rows, and of each resample. The resamples depend only on the row count and the seed."""

    def areas(indices: np.ndarray) -> np.ndarray:
        count = len(indices)
        places = indices + np.arange(count)[:, None] * rows.n
        times = np.bincount(places.ravel(), minlength=count * rows.n).reshape(count, rows.n)
        return measure(*rows.by_level(times))

    whole = measure(*rows.by_level(np.ones((1, rows.n))))
    return float(whole[0]), resampled(areas, rows.n, resamples=resamples, seed=seed)


def _interval(value: float, drawn: np.ndarray, level: float, n: int) -> Area:
    return Area(value, *percentile_interval(drawn, level), n)


def _roc(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Return the areas under the ROC curves; NaN where there are no positives or no negatives."""
    pairs = hits.sum(axis=1) * misses.sum(axis=1)
    below = np.cumsum(misses, axis=1) - misses / 2.0
    return np.divide((hits * below).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


class _Risk:
    """Areas under risk-coverage curves.

    A level of g members, e of them positive, that follows a members with E positives contributes the sum over
    j = 1, ..., g of (E + j e/g) / (a + j) = e + (E - a e/g) (H(a + g) - H(a)), where H are the harmonic numbers.
    """

    def __init__(self, most: int) -> None:
        self.harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, most + 1))])

    def __call__(self, hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
        size = hits + misses
        ends, found = np.cumsum(size, axis=1), np.cumsum(hits, axis=1)
        before = ends - size
        spread = self.harmonic[ends.astype(int)] - self.harmonic[before.astype(int)]
        slope = hits / np.maximum(size, 1.0)
        return (hits + (found - hits - before * slope) * spread).sum(axis=1) / ends[:, -1]
