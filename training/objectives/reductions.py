"""How token losses become one number: coefficients c_t, decided before backward, so that the loss is sum_t c_t l_t.

Every denominator is a count over the whole batch of one update (all data-parallel ranks, all micro-batches), so the sum of
the parts' gradients is the batch's gradient however it is cut. An engine that divides by the number of ranks or of
accumulation steps (DDP, DeepSpeed) must be given c_t multiplied by that number: undoing its mean is the caller's duty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts over one whole update: `sequences` = prompts x K, `tokens` = all their response tokens, end tokens included.

    Sequences and tokens of weight 0 count as well.
    """

    sequences: int
    tokens: int

    def __post_init__(self) -> None:
        if not 1 <= self.sequences <= self.tokens:
            raise ValueError(
                f"{self.sequences} sequences with {self.tokens} tokens: need at least one, none of them empty"
            )


class Reduction(Protocol):
    """Weights [S] and lengths [S] of some sequences of the batch -> float64 coefficients [S] of each of their tokens."""

    def __call__(self, weights: Tensor, lengths: Tensor, totals: Totals) -> Tensor: ...


def per_sequence_mean(weights: Tensor, lengths: Tensor, totals: Totals) -> Tensor:
    """w_s / (|y_s| x sequences): mean over a response times w, then mean over K and prompts (UOPD Eq. 8 and 9).

    The divisor is prompts x K, never the sum of w, and |y_s| includes the end token.
    """
    return weights.double() / (lengths.double() * totals.sequences)


def global_token_mean(weights: Tensor, lengths: Tensor, totals: Totals) -> Tensor:
    """w_s / tokens: each token of the batch counts the same, so longer responses count for more."""
    return weights.double() / torch.full_like(lengths, totals.tokens, dtype=torch.float64)


def expand(per_sequence: Tensor, lengths: Tensor) -> Tensor:
    """One value per sequence [S] -> one per token [sum of lengths], sequence after sequence."""
    return per_sequence.repeat_interleave(lengths)


def check_sequences(weights: Tensor, lengths: Tensor) -> None:
    """ValueError, naming the sequence, for weights that are negative or not finite and for empty responses."""
    if weights.shape != lengths.shape or weights.dim() != 1:
        raise ValueError(
            f"weights {tuple(weights.shape)} and lengths {tuple(lengths.shape)}: need two equal [S]"
        )
    bad = (~(weights.isfinite() & (weights >= 0))).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"sequence {bad[0]} has weight {weights[bad[0]].item()}: need a number of at least 0"
        )
    empty = (lengths < 1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"sequence {empty[0]} has length {lengths[empty[0]].item()}: need at least its end token"
        )
