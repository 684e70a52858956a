"""Length-balanced micro-batches under a token budget, over data-parallel ranks. Pure.

Every rank gets the same number of micro-batches, because collectives wait for all ranks; the i-th micro-batches of all ranks
have about the same length. Packing does not affect the gradient: coefficients are computed before.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

BatchIndices = tuple[int, ...]  # indices of sequences; empty if a rank has no more of them


def pack(lengths: Sequence[int], *, budget: int, ranks: int = 1) -> tuple[tuple[BatchIndices, ...], ...]:
    """Pack sequences into micro-batches: `result[rank][i]` has the indices of that rank's i-th micro-batch.

    `lengths` and `budget` are in tokens. Every sequence is in exactly one micro-batch. The number of micro-batches per rank is
    the smallest for which the longest-first heuristic succeeds, and the fullest come first. The result is deterministic. An
    empty batch gives every rank one empty micro-batch, so that the step still runs. Raises `ValueError` for a length below 1 or
    above the budget.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {ranks}")
    for index, length in enumerate(lengths):
        if not 1 <= length <= budget:
            raise ValueError(
                f"sequence {index} has {length} tokens: it must have 1 to {budget}, the micro-batch budget"
            )
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    bins = _bins(order, lengths, budget, ranks)
    return _deal(bins, [sum(lengths[index] for index in one) for one in bins], ranks)


def _bins(order: Sequence[int], lengths: Sequence[int], budget: int, ranks: int) -> list[list[int]]:
    """Return bins within the budget, their number a multiple of `ranks`.

    The loop terminates: while a sequence overflows, every bin is either more than half full or contains a sequence longer than
    half of the budget. So fewer than twice the minimum number of bins are tried, rounded up to a multiple of `ranks`.
    """
    count = ranks * max(1, -(-sum(lengths) // (budget * ranks)))
    while (bins := _balanced(order, lengths, budget, count)) is None:
        count += ranks
    return bins


def _balanced(
    order: Sequence[int], lengths: Sequence[int], budget: int, count: int
) -> list[list[int]] | None:
    """Put each sequence, longest first, into the emptiest bin (Graham 1969: at most 4/3 of the optimal maximum). Returns None if
    a bin overflows."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]
    for index in order:
        load, number = heapq.heappop(loads)
        if load + lengths[index] > budget:
            return None
        bins[number].append(index)
        heapq.heappush(loads, (load + lengths[index], number))
    return bins


def _deal(
    bins: Sequence[list[int]], loads: Sequence[int], ranks: int
) -> tuple[tuple[BatchIndices, ...], ...]:
    """Distribute the bins, `ranks` bins of similar load at a time; the fullest goes to the rank with the smallest load so far."""
    order = sorted(range(len(bins)), key=lambda number: (-loads[number], number))
    totals = [0] * ranks
    dealt: list[list[BatchIndices]] = [[] for _ in range(ranks)]
    for start in range(0, len(order), ranks):
        emptiest = sorted(range(ranks), key=lambda rank: (totals[rank], rank))
        for rank, number in zip(emptiest, order[start : start + ranks], strict=True):
            dealt[rank].append(tuple(sorted(bins[number])))
            totals[rank] += loads[number]
    return tuple(tuple(batches) for batches in dealt)
