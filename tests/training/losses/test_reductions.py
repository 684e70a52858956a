"""Coefficients of token losses: hand-computed values, the same arithmetic in torch, independence of how a batch is split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.losses.reductions import (
    Totals,
    check_sequences,
    expand,
    per_sequence_mean,
    token_mean,
    weighted_sequence_mean,
    weighted_token_mean,
)

REDUCTIONS = [per_sequence_mean, token_mean]
ROWS = st.lists(st.tuples(st.floats(0.0, 1.0, width=32), st.integers(1, 50)), min_size=1, max_size=12)


def test_by_hand() -> None:
    # two prompts x K = 2; w = (1/2, 1/2, 0, 0), lengths (2, 1, 4, 1)
    totals = Totals(sequences=4, tokens=8)
    weights, lengths = np.array([0.5, 0.5, 0.0, 0.0]), np.array([2, 1, 4, 1])
    # w / (|y| x 4), not divided by sum w = 1
    mean = expand(per_sequence_mean(weights, lengths, totals), lengths)
    assert mean.dtype == np.float64 and mean.tolist() == [1 / 16, 1 / 16, 1 / 8, 0, 0, 0, 0, 0]
    # w / 8 for every token
    tokens = expand(token_mean(weights, lengths, totals), lengths)
    assert tokens.dtype == np.float64 and tokens.tolist() == [1 / 16, 1 / 16, 1 / 16, 0, 0, 0, 0, 0]


def test_equal_losses_reduce_to_the_mean_weight_of_sequences_or_of_tokens() -> None:
    weights, lengths, totals = (
        np.array([0.25, 1.0, 0.0]),
        np.array([7, 2, 5]),
        Totals(sequences=3, tokens=14),
    )
    sums = [(expand(one(weights, lengths, totals), lengths) * 3.0).sum() for one in REDUCTIONS]
    assert sums == pytest.approx([3.0 * 1.25 / 3, 3.0 * (0.25 * 7 + 2) / 14])


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, dtype=st.sampled_from([np.float32, np.float64]))
def test_it_has_the_bits_of_the_torch_arithmetic(rows: list[tuple[float, int]], dtype) -> None:
    weights = np.array([weight for weight, _ in rows], dtype=dtype)
    lengths = np.array([length for _, length in rows])
    totals = Totals(sequences=len(rows), tokens=int(lengths.sum()))
    old = torch.from_numpy(weights).double() / (torch.from_numpy(lengths).double() * totals.sequences)
    got = expand(per_sequence_mean(weights, lengths, totals), lengths)
    assert got.tobytes() == old.repeat_interleave(torch.from_numpy(lengths)).numpy().tobytes()


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, cut=st.integers(0, 12), reduction=st.sampled_from(REDUCTIONS))
def test_splitting_the_batch_changes_no_coefficient(
    rows: list[tuple[float, int]], cut: int, reduction
) -> None:
    weights = np.array([weight for weight, _ in rows])
    lengths = np.array([length for _, length in rows])
    totals = Totals(sequences=len(rows), tokens=int(lengths.sum()))

    def of(part: slice) -> np.ndarray:
        return expand(reduction(weights[part], lengths[part], totals), lengths[part])

    parts = np.concatenate([of(slice(0, cut)), of(slice(cut, None))])
    assert np.array_equal(parts, of(slice(None)))
    assert np.array_equal(parts == 0, np.repeat(weights, lengths) == 0)


@pytest.mark.parametrize(
    ("weights", "lengths", "message"),
    [
        ([0.5, math.nan], [1, 1], "sequence 1 has weight nan"),
        ([0.5, -0.1], [1, 1], "sequence 1 has weight -0.1"),
        ([math.inf, 1.0], [1, 1], "sequence 0 has weight inf"),
        ([1.0, 1.0], [2, 0], "sequence 1 has length 0"),
        ([1.0], [1, 1], r"both must be \[S\]"),
    ],
)
def test_invalid_sequences_are_named(weights: list[float], lengths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sequences(np.array(weights), np.array(lengths))


@pytest.mark.parametrize(("sequences", "tokens"), [(0, 0), (0, 5), (3, 2)])
def test_impossible_totals_are_rejected(sequences: int, tokens: int) -> None:
    with pytest.raises(ValueError, match="there must be at least one"):
        Totals(sequences=sequences, tokens=tokens)


def test_weighted_means_divide_by_the_sums_of_the_weights_by_hand() -> None:
    # rollout weights 1, 0, 1 with prompt weights 1/2, 1/2, 1; token weights are 1 on 3 of the tokens of the first and the third
    weights, lengths = np.array([0.5, 0.0, 1.0]), np.array([2, 4, 5])
    totals = Totals(sequences=3, tokens=11, rollout_weights=2.0, token_weights=3.0)
    assert weighted_sequence_mean(weights, lengths, totals).tolist() == [1 / 8, 0, 1 / 10]
    assert weighted_token_mean(weights, lengths, totals).tolist() == [1 / 6, 0, 1 / 3]


@pytest.mark.parametrize("reduction", [weighted_sequence_mean, weighted_token_mean])
def test_without_any_weight_a_weighted_mean_is_0_and_without_sums_it_is_an_error(reduction) -> None:
    weights, lengths = np.zeros(2), np.array([1, 3])
    none = Totals(sequences=2, tokens=4, rollout_weights=0.0, token_weights=0.0)
    assert reduction(weights, lengths, none).tolist() == [0, 0]
    with pytest.raises(ValueError, match="the algorithm must declare whole_updates"):
        reduction(weights, lengths, Totals(sequences=2, tokens=4))
