"""Length-balanced micro-batches under a token budget, over data-parallel ranks. Pure.

Every rank gets the same number of micro-batches, because a collective of one rank waits for the others; the i-th
micro-batches of all ranks have about the same length. The cut changes no gradient: coefficients are decided before.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

MicroBatch = tuple[int, ...]  # indices of sequences; empty where a rank has nothing to add


def pack(lengths: Sequence[int], *, budget: int, ranks: int = 1) -> tuple[tuple[MicroBatch, ...], ...]:
    """`result[rank][i]`: the sequences of rank's i-th micro-batch, every sequence in exactly one of them.

    `lengths` and `budget` are tokens. As few micro-batches a rank as longest first into the emptiest finds, the fullest
    first; the same input gives the same result. An empty batch gives every rank one empty micro-batch, so that a step
    still runs. ValueError for a length below 1 or above the budget.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {ranks}")
    for index, length in enumerate(lengths):
        if not 1 <= length <= budget:
            raise ValueError(
                f"sequence {index} has {length} tokens: need 1 to {budget}, the micro-batch budget"
            )
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    bins = _bins(order, lengths, budget, ranks)
    return _deal(bins, [sum(lengths[index] for index in one) for one in bins], ranks)


def _bins(order: Sequence[int], lengths: Sequence[int], budget: int, ranks: int) -> list[list[int]]:
    """As many bins as a multiple of `ranks`, none above the budget.

    It ends: while a sequence overflows, either every bin is more than half full, or holds one that is longer than half of
    the budget; so fewer than twice the fewest bins that could do are ever tried (and the rest of a round).
    """
    count = ranks * max(1, -(-sum(lengths) // (budget * ranks)))
    while (bins := _balanced(order, lengths, budget, count)) is None:
        count += ranks
    return bins


def _balanced(
    order: Sequence[int], lengths: Sequence[int], budget: int, count: int
) -> list[list[int]] | None:
    """Longest first into the emptiest bin (Graham 1969: at most 4/3 of the best maximum); None when one overflows."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]
    for index in order:
        load, number = heapq.heappop(loads)
        if load + lengths[index] > budget:
            return None
        bins[number].append(index)
        heapq.heappush(loads, (load + lengths[index], number))
    return bins


def _deal(bins: Sequence[list[int]], loads: Sequence[int], ranks: int) -> tuple[tuple[MicroBatch, ...], ...]:
    """Round by round, `ranks` bins of like load; in a round the fullest goes to the rank with least so far."""
    order = sorted(range(len(bins)), key=lambda number: (-loads[number], number))
    totals = [0] * ranks
    dealt: list[list[MicroBatch]] = [[] for _ in range(ranks)]
    for start in range(0, len(order), ranks):
        emptiest = sorted(range(ranks), key=lambda rank: (totals[rank], rank))
        for rank, number in zip(emptiest, order[start : start + ranks], strict=True):
            dealt[rank].append(tuple(sorted(bins[number])))
            totals[rank] += loads[number]
    return tuple(tuple(batches) for batches in dealt)
