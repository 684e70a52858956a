"""Areas under the ROC and the precision-recall curve of a score of candidates, with the bootstrap over problems. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.uncertainty.bootstrap import LEVEL, percentile_interval, resampled

__all__ = ["Interval", "areas", "centred"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An area with its percentile interval."""

    value: float
    low: float
    high: float


def centred(scores: Sequence[float], groups: Sequence[str]) -> Floats:
    """Return every score minus the mean score of its group."""
    values = np.asarray(scores, dtype=np.float64)
    _, members = np.unique(np.asarray(groups), return_inverse=True)
    means = np.bincount(members, weights=values) / np.bincount(members)
    return values - means[members]


def areas(
    scores: Sequence[float] | Floats,
    positive: Sequence[bool],
    groups: Sequence[str],
    *,
    resamples: int,
    seed: int,
    level: float = LEVEL,
) -> tuple[Interval, Interval] | None:
    """Return AUROC and AUPRC; None without positives or without negatives.

    AUROC: P(score of a positive > score of a negative), ties one half (mid-ranks). AUPRC: average precision, the sum of
    precision times the increase of recall over the distinct scores. Whole groups are resampled, and resamples without both
    classes are left out.
    """
    hits = np.asarray(positive, dtype=np.bool_)
    if not 0 < hits.sum() < hits.size:
        return None
    levels = np.unique(_rounded(scores), return_inverse=True)[1]
    _, members = np.unique(np.asarray(groups), return_inverse=True)
    count = int(members.max()) + 1

    def both(weights: Floats) -> Floats:
        """Return AUROC and AUPRC [2, R] for weights of the candidates [R, N]."""
        return np.stack(_areas(*_by_level(weights, levels, hits)))

    def of_groups(indices: NDArray[np.int64]) -> Floats:
        rows = len(indices)
        places = (indices + np.arange(rows)[:, None] * count).ravel()
        times = np.bincount(places, minlength=rows * count).reshape(rows, count)
        return both(times[:, members].astype(np.float64)).T

    values = both(np.ones((1, hits.size)))[:, 0]
    drawn = resampled(of_groups, count, resamples=resamples, seed=seed)
    found = [
        Interval(value=float(value), low=low, high=high)
        for value, column in zip(values, drawn.T, strict=True)
        for low, high in [percentile_interval(column, level)]
    ]
    return found[0], found[1]


def _rounded(scores: Sequence[float] | Floats) -> Floats:
    """Return the scores without the rounding of sums, which would break ties of centred scores."""
    return np.round(np.asarray(scores, dtype=np.float64), 9)


def _by_level(weights: Floats, levels: NDArray[np.intp], hits: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the weight of positives and of negatives at each distinct score, ascending, [R, levels]."""
    rows, size = len(weights), int(levels.max()) + 1
    places = (np.arange(rows)[:, None] * size + levels).ravel()

    def summed(chosen: NDArray[np.bool_]) -> Floats:
        total = np.bincount(places, weights=(weights * chosen).ravel(), minlength=rows * size)
        return total.astype(np.float64).reshape(rows, size)

    return summed(hits), summed(~hits)


def _areas(hits: Floats, misses: Floats) -> tuple[Floats, Floats]:
    """Return the areas [R]; NaN where there are no positives or no negatives."""
    all_hits, all_misses = hits.sum(axis=1), misses.sum(axis=1)
    defined = (all_hits > 0) & (all_misses > 0)
    below = np.cumsum(misses, axis=1) - misses / 2.0
    empty = np.full(len(hits), np.nan)
    roc = np.divide((hits * below).sum(axis=1), all_hits * all_misses, out=empty.copy(), where=defined)
    found = np.cumsum(hits[:, ::-1], axis=1)
    taken = found + np.cumsum(misses[:, ::-1], axis=1)
    precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
    gained = (hits[:, ::-1] * precision).sum(axis=1)
    return roc, np.divide(gained, all_hits, out=empty, where=defined)
