"""Changes of weights between two annotations of the same rows. Pure."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.rows import Tier
from tasks.uncertainty.annotation import Cause

FAR = 0.1  # a weight that changed by more counts in `Drift.far`


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One row before and after. `right` is whether the majority answer is correct; None without a ground truth."""

    id: str
    problem: str
    tier: Tier
    cause: Cause
    old_weight: float
    new_weight: float
    old_entropy: float  # nats
    new_entropy: float
    old_answer: str | None
    new_answer: str | None
    old_right: bool | None = None
    new_right: bool | None = None

    @property
    def change(self) -> float:
        """New weight minus old weight."""
        return self.new_weight - self.old_weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Statistics of a set of moves.

    Means and medians are of weights. `correlation` is Pearson's; None for fewer than two rows or if one side is constant.
    The counts of correct majorities include only rows with a ground truth.
    """

    rows: int
    old_mean: float
    new_mean: float
    mean_change: float
    mean_absolute: float
    median_absolute: float
    largest: float  # absolute
    up: int
    down: int
    same: int
    far: int  # rows whose weight changed by more than FAR
    answers_changed: int
    correlation: float | None
    with_truth: int
    old_right: int
    new_right: int


def drift(moves: Sequence[Move]) -> Drift | None:
    """Return the statistics of the moves, or None if there are none."""
    if not moves:
        return None
    changes = [move.change for move in moves]
    sizes = [abs(change) for change in changes]
    known = [move for move in moves if move.old_right is not None and move.new_right is not None]
    old, new = [move.old_weight for move in moves], [move.new_weight for move in moves]
    return Drift(
        rows=len(moves),
        old_mean=statistics.fmean(old),
        new_mean=statistics.fmean(new),
        mean_change=statistics.fmean(changes),
        mean_absolute=statistics.fmean(sizes),
        median_absolute=statistics.median(sizes),
        largest=max(sizes),
        up=sum(change > 0 for change in changes),
        down=sum(change < 0 for change in changes),
        same=sum(change == 0 for change in changes),
        far=sum(size > FAR for size in sizes),
        answers_changed=sum(move.old_answer != move.new_answer for move in moves),
        correlation=correlation(old, new),
        with_truth=len(known),
        old_right=sum(bool(move.old_right) for move in known),
        new_right=sum(bool(move.new_right) for move in known),
    )


def by_tier(moves: Sequence[Move]) -> dict[Tier, Drift]:
    """Return the statistics of every tier with at least one move, easiest first."""
    groups: dict[Tier, list[Move]] = defaultdict(list)
    for move in moves:
        groups[move.tier].append(move)
    found = {tier: drift(groups[tier]) for tier in Tier}
    return {tier: numbers for tier, numbers in found.items() if numbers is not None}


def largest_movers(moves: Sequence[Move], count: int) -> list[Move]:
    """Return the `count` rows whose weights changed most, ties by id, without unchanged rows."""
    moved = [move for move in moves if move.change != 0]
    return sorted(moved, key=lambda move: (-abs(move.change), move.id))[:count]


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Pearson's correlation, or None for fewer than two values or if one side is constant."""
    if len(first) < 2 or min(len(set(first)), len(set(second))) < 2:
        return None
    found = statistics.correlation(first, second)
    return found if math.isfinite(found) else None
