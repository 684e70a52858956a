"""Micro-batches: complete, within the budget, equally many on every rank, and close to the optimal balance."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.packing import BatchIndices, pack

Packed = tuple[tuple[BatchIndices, ...], ...]


def loads(packed: Packed, lengths: list[int]) -> list[list[int]]:
    return [[sum(lengths[index] for index in batch) for batch in rank] for rank in packed]


def test_four_sequences_on_two_ranks_by_hand() -> None:
    # 7 + 3 and 6 + 4 fill a budget of 10 exactly: one micro-batch per rank
    assert pack([3, 7, 6, 4], budget=10, ranks=2) == (((0, 1),), ((2, 3),))


def test_the_fullest_bin_goes_to_the_rank_with_the_smallest_load() -> None:
    # one sequence per bin, dealt as (9, 8), (7, 6): 9 to rank 0, 8 to rank 1, then 7 to rank 1, which has the smaller load
    assert pack([9, 8, 7, 6], budget=10, ranks=2) == (((0,), (3,)), ((1,), (2,)))


def test_one_more_micro_batch_if_the_even_split_overflows() -> None:
    # longest first into the emptiest of two: 5 | 5, 4 + 5 | 5, 9 | 3 + 5, 9 | 8, and the last 3 does not fit; into three:
    # 5 + 3 | 5 | 4 + 3
    assert pack([5, 5, 4, 3, 3], budget=10) == (((0, 4), (2, 3), (1,)),)


def test_a_rank_without_sequences_gets_an_empty_micro_batch() -> None:
    assert pack([5], budget=10, ranks=3) == (((0,),), ((),), ((),))
    assert pack([], budget=10, ranks=2) == (((),), ((),))


@given(
    st.lists(st.integers(1, 100), max_size=60),
    st.integers(100, 400),
    st.integers(1, 5),
)
def test_every_sequence_once_under_budget_with_equal_counts(
    lengths: list[int], budget: int, ranks: int
) -> None:
    packed = pack(lengths, budget=budget, ranks=ranks)
    assert len(packed) == ranks
    assert len({len(rank) for rank in packed}) == 1
    assert sorted(index for rank in packed for batch in rank for index in batch) == list(range(len(lengths)))
    assert all(load <= budget for rank in loads(packed, lengths) for load in rank)
    assert pack(lengths, budget=budget, ranks=ranks) == packed


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(100, 400), st.integers(1, 5))
def test_at_most_about_twice_the_minimum_number_of_micro_batches(
    lengths: list[int], budget: int, ranks: int
) -> None:
    # two bins below half of the budget would be merged: at most 2 * total / budget + 1 bins, rounded up to the ranks
    fewest = -(-sum(lengths) // budget)
    assert len(pack(lengths, budget=budget, ranks=ranks)[0]) * ranks < 2 * fewest + 1 + ranks


@pytest.mark.parametrize("seed", range(20))
def test_the_minimum_number_of_micro_batches_or_one_more(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 10) for _ in range(7)]
    packed = pack(lengths, budget=10)
    best = next(
        count
        for count in itertools.count(1)
        if any(
            all(sum(length for length, where in zip(lengths, cut, strict=True) if where == one) <= 10 for one in range(count))
            for cut in itertools.product(range(count), repeat=7)
        )
    )  # fmt: skip
    assert best <= len(packed[0]) <= best + 1


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_a_real_batch_is_within_two_percent_of_the_lower_bound(ranks: int) -> None:
    rng = random.Random(7)
    lengths = [min(5120, int(rng.lognormvariate(6.8, 0.7)) + 100) for _ in range(512)]
    packed = pack(lengths, budget=8192, ranks=ranks)
    found = loads(packed, lengths)
    even = sum(lengths) / ranks
    assert max(map(sum, found)) <= 1.02 * even
    fewest = -(-sum(lengths) // (8192 * ranks))
    assert fewest <= len(packed[0]) <= 1.03 * fewest + 1
    for rounds in zip(*found, strict=True):  # simultaneous micro-batches have similar lengths
        assert max(rounds) <= 1.05 * min(rounds)


def test_reversing_the_input_does_not_change_the_loads() -> None:
    rng = random.Random(3)
    lengths = [rng.randint(1, 500) for _ in range(100)]
    forward = loads(pack(lengths, budget=1000, ranks=2), lengths)
    assert loads(pack(lengths[::-1], budget=1000, ranks=2), lengths[::-1]) == forward


@pytest.mark.parametrize(
    ("lengths", "ranks", "message"),
    [
        ([5, 11], 1, "sequence 1 has 11 tokens: it must have 1 to 10"),
        ([0], 1, "sequence 0 has 0 tokens"),
        ([5], 0, "ranks must be at least 1"),
    ],
)
def test_invalid_input_is_rejected(lengths: list[int], ranks: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(lengths, budget=10, ranks=ranks)
