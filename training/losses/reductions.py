"""Reductions of token losses to one number: coefficients c_t, computed before backward, such that the loss is sum_t c_t l_t.

Every denominator is a count over the whole batch of one update (all data-parallel ranks and micro-batches), so that the gradients
of the micro-batches sum to the gradient of the batch, however it is split. Trainer backends that divide by the number of ranks
or accumulation steps (DDP, DeepSpeed) need c_t multiplied by that number; this is the caller's responsibility.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts of one update: `sequences` = prompts x K, `tokens` = all their response tokens, end tokens included.

    Sequences and tokens with weight 0 are included.
    """

    sequences: int
    tokens: int

    def __post_init__(self) -> None:
        if not 1 <= self.sequences <= self.tokens:
            raise ValueError(
                f"{self.sequences} sequences with {self.tokens} tokens: there must be at least one, none of them empty"
            )


class Reduction(Protocol):
    """Weights [S] and lengths [S] of some sequences of the batch -> float64 [S], the coefficient of each token of a sequence."""

    def __call__(self, weights: Tensor, lengths: Tensor, totals: Totals) -> Tensor: ...


def per_sequence_mean(weights: Tensor, lengths: Tensor, totals: Totals) -> Tensor:
    """Return w_s / (|y_s| x sequences): the mean over a response times w, then the mean over K and prompts (UOPD Eq. 8 and 9).

    The denominator is prompts x K, not the sum of w, and |y_s| includes the end token.
    """
    return weights.double() / (lengths.double() * totals.sequences)


def expand(per_sequence: Tensor, lengths: Tensor) -> Tensor:
    """Repeat a value per sequence [S] for each of its tokens; returns [sum of lengths]."""
    return per_sequence.repeat_interleave(lengths)


def check_sequences(weights: Tensor, lengths: Tensor) -> None:
    """Raise `ValueError`, naming the sequence, for negative or non-finite weights and for empty responses."""
    if weights.shape != lengths.shape or weights.dim() != 1:
        raise ValueError(
            f"weights {tuple(weights.shape)} and lengths {tuple(lengths.shape)}: both must be [S]"
        )
    bad = (~(weights.isfinite() & (weights >= 0))).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"sequence {bad[0]} has weight {weights[bad[0]].item()}: it must be finite and at least 0"
        )
    empty = (lengths < 1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"sequence {empty[0]} has length {lengths[empty[0]].item()}: it must have at least its end token"
        )
