"""What a scorer is asked for and what it returns. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["ScoreRequest", "Scores", "TopK"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """What to return for every response token: `sampled`, its log-probability; `top_k`, that many most probable tokens; `states`,
    the hidden state from which the LM head computes the full distribution, or `whole`, the full distribution itself, as a top k
    of the whole vocabulary in order of ids; `entropy`, the entropy of the full distribution."""

    sampled: bool = False
    top_k: int | None = None
    states: bool = False
    whole: bool = False
    entropy: bool = False

    def entries(self, vocabulary: int) -> int | None:
        """Return the number of a token's entries that are asked for, of a model with that many ids; None: none."""
        return vocabulary if self.whole else self.top_k


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The k most probable tokens for one response of T tokens: log-probabilities [T, k] (float32, of the full softmax) in
    descending order, and ids [T, k] (int32). With k = V, entries are in order of ids and `ids` is None."""

    logprobs: np.ndarray
    ids: np.ndarray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of one response of T tokens; None for what was not requested.

    `sampled` and `entropy` float32 [T], in nats. `states` [T, H]: the last hidden states as bf16 bits in uint16.
    """

    sampled: np.ndarray | None = None
    top_k: TopK | None = None
    states: np.ndarray | None = None
    entropy: np.ndarray | None = None
