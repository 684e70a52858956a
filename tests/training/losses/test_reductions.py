"""Coefficients of token losses: hand-computed values, and independence of how a batch is split."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.losses.base import LossInputs
from training.losses.reductions import Totals, per_sequence_mean
from training.objectives.presets.uopd import OBJECTIVE as UOPD


def blank(count: int) -> LossInputs:
    return LossInputs(sampled_ids=torch.zeros(count, dtype=torch.int64))


def test_per_sequence_mean_by_hand() -> None:
    # two prompts x K = 2; w = (1/2, 1/2, 0, 0), lengths (2, 1, 4, 1): w / (|y| x 4), not divided by sum w = 1
    totals = Totals(sequences=4, tokens=8)
    weights, lengths = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([2, 1, 4, 1])
    got = UOPD.coefficients(weights, lengths, blank(8), totals)
    assert got.dtype == torch.float64
    assert got.tolist() == [1 / 16, 1 / 16, 1 / 8, 0, 0, 0, 0, 0]


def test_equal_losses_reduce_to_the_mean_weight() -> None:
    weights, lengths = torch.tensor([0.25, 1.0, 0.0]), torch.tensor([7, 2, 5])
    per_token = UOPD.coefficients(weights, lengths, blank(14), Totals(sequences=3, tokens=14))
    assert (per_token * 3.0).sum().item() == pytest.approx(3.0 * 1.25 / 3)


def test_a_token_weight_multiplies_its_token() -> None:
    def last_token_only(lengths: Tensor, inputs: LossInputs) -> Tensor:
        weight = torch.zeros(len(inputs), dtype=torch.float64)
        weight[lengths.cumsum(0) - 1] = 1.0
        return weight

    got = replace(UOPD, token_weight=last_token_only).coefficients(
        torch.ones(2), torch.tensor([2, 1]), blank(3), Totals(sequences=2, tokens=3)
    )
    assert got.tolist() == [0, 1 / 4, 1 / 2]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 100).map(lambda percent: percent / 100), st.integers(1, 50)),
        min_size=1,
        max_size=12,
    ),
    cut=st.integers(0, 12),
    reduction=st.sampled_from([per_sequence_mean]),
)
def test_splitting_the_batch_changes_no_coefficient(
    rows: list[tuple[float, int]], cut: int, reduction
) -> None:
    objective = replace(UOPD, reduction=reduction)
    weights = torch.tensor([weight for weight, _ in rows], dtype=torch.float64)
    lengths = torch.tensor([length for _, length in rows])
    totals = Totals(sequences=len(rows), tokens=int(lengths.sum()))

    def of(part: slice) -> Tensor:
        return objective.coefficients(weights[part], lengths[part], blank(int(lengths[part].sum())), totals)

    parts = torch.cat([of(slice(0, cut)), of(slice(cut, None))])
    assert torch.equal(parts, of(slice(None)))
    assert ((parts == 0) == weights.repeat_interleave(lengths).eq(0)).all()


@pytest.mark.parametrize(
    ("weights", "lengths", "message"),
    [
        ([0.5, math.nan], [1, 1], "sequence 1 has weight nan"),
        ([0.5, -0.1], [1, 1], "sequence 1 has weight -0.1"),
        ([math.inf, 1.0], [1, 1], "sequence 0 has weight inf"),
        ([1.0, 1.0], [2, 0], "sequence 1 has length 0"),
        ([1.0], [1, 1], r"both must be \[S\]"),
        ([1.0, 1.0], [1, 2], "sum to 3 instead of 2 positions"),
    ],
)
def test_invalid_sequences_are_named(weights: list[float], lengths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UOPD.coefficients(
            torch.tensor(weights), torch.tensor(lengths), blank(2), Totals(sequences=2, tokens=2)
        )


@pytest.mark.parametrize(("sequences", "tokens"), [(0, 0), (0, 5), (3, 2)])
def test_impossible_totals_are_rejected(sequences: int, tokens: int) -> None:
    with pytest.raises(ValueError, match="there must be at least one"):
        Totals(sequences=sequences, tokens=tokens)
