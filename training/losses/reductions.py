"""Reductions of token losses to one number: coefficients c_t, computed before backward, such that the loss is sum_t c_t l_t.

Every denominator is a count over the whole batch of one update (all data-parallel ranks and micro-batches), so that the gradients
of the micro-batches sum to the gradient of the batch, however it is split. Trainer backends that divide by the number of ranks
or accumulation steps (DDP, DeepSpeed) need c_t multiplied by that number; this is the caller's responsibility. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts of one update: `sequences` = prompts x K, `tokens` = all their response tokens, end tokens included.

    Sequences and tokens with weight 0 are included. `rollout_weights` is the sum of the rollout weights over the sequences,
    `token_weights` that of rollout weight x token weight over the tokens; neither has the prompt weights. They are known to
    algorithms with `whole_updates` only.
    """

    sequences: int
    tokens: int
    rollout_weights: float | None = None
    token_weights: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.sequences <= self.tokens:
            raise ValueError(
                f"{self.sequences} sequences with {self.tokens} tokens: there must be at least one, none of them empty"
            )


class Reduction(Protocol):
    """Weights [S] and lengths [S] of some sequences of the batch -> float64 [S], the coefficient of each token of a sequence."""

    def __call__(self, weights: Floats, lengths: Integers, totals: Totals, /) -> Floats: ...


def per_sequence_mean(weights: Floats, lengths: Integers, totals: Totals) -> Floats:
    """Return w_s / (|y_s| x sequences): the mean over a response times w, then the mean over K and prompts (UOPD Eq. 8 and 9).

    The denominator is prompts x K, not the sum of w, and |y_s| includes the end token. With w = 1 it is the reduction of GRPO
    (DeepSeekMath, arXiv:2402.03300, Eq. 3) and of PW-OPSD.
    """
    return weights.astype(np.float64) / (lengths.astype(np.float64) * totals.sequences)


def token_mean(weights: Floats, lengths: Integers, totals: Totals) -> Floats:
    """Return w_s / tokens: the mean over all tokens of the update, so that long responses count more. It is the reduction of
    EOPD, of supervised fine-tuning and of DAPO (arXiv:2503.14476). The denominator counts tokens of weight 0, too."""
    return weights.astype(np.float64) / float(totals.tokens)


def weighted_sequence_mean(weights: Floats, lengths: Integers, totals: Totals) -> Floats:
    """Return w_s / (|y_s| x sum of the rollout weights): with rollout weights of 0 and 1, the mean over the chosen rollouts
    (CORE: the right ones). The prompt weight is in w_s and, as in UOPD, not in the denominator. Without any weight it is 0."""
    return _divided(weights / lengths.astype(np.float64), totals.rollout_weights)


def weighted_token_mean(weights: Floats, lengths: Integers, totals: Totals) -> Floats:
    """Return w_s / sum over tokens of rollout weight x token weight: with token weights of 0 and 1, the mean over the chosen
    tokens (REOPOLD). Without any weight it is 0."""
    return _divided(weights.astype(np.float64), totals.token_weights)


def _divided(values: Floats, total: float | None) -> Floats:
    if total is None:
        raise ValueError(
            "the reduction divides by a sum of weights: the algorithm must declare whole_updates"
        )
    return values / total if total > 0 else np.zeros_like(values)


def expand(per_sequence: Floats, lengths: Integers) -> Floats:
    """Repeat a value per sequence [S] for each of its tokens; returns [sum of lengths]."""
    return np.repeat(per_sequence, lengths)


def check_sequences(weights: Floats, lengths: Integers) -> None:
    """Raise `ValueError`, naming the sequence, for negative or non-finite weights and for empty responses."""
    if weights.shape != lengths.shape or weights.ndim != 1:
        raise ValueError(f"weights {weights.shape} and lengths {lengths.shape}: both must be [S]")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise ValueError(f"sequence {bad[0]} has weight {weights[bad[0]]}: it must be finite and at least 0")
    empty = np.flatnonzero(lengths < 1)
    if len(empty):
        raise ValueError(
            f"sequence {empty[0]} has length {lengths[empty[0]]}: it must have at least its end token"
        )
