"""Log-probabilities of a frozen LM head for given hidden states, in chunks of positions, so that [T, V] is never materialised.

Dimensions: T positions, H hidden size, V vocabulary size, k kept entries. Log-probabilities are float32, of the full softmax.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

CHUNK = 1024


def sampled_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
    *,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Return log p [T] (nats) of the tokens `ids` [T], given hidden states [T, H] and head weights [V, H]."""
    out = torch.empty(len(ids), dtype=torch.float32, device=hidden.device)
    for span, logits in _logits(hidden, weight, chunk):
        if temperature != 1.0:
            logits /= temperature
        out[span] = logits.gather(-1, ids[span, None])[:, 0] - logits.logsumexp(-1)
    return out


def topk_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, k: int, *, chunk: int = CHUNK
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the k most likely tokens for hidden states [T, H] and head weights [V, H]: log p [T, k], descending, and ids [T, k].

    With k = V the entries are in order of ids and no ids are returned. Probabilities are not renormalised: the sum of a row is
    at most 1. Raises ValueError if k is not in 1 ... V.
    """
    tokens, vocabulary = len(hidden), len(weight)
    if not 1 <= k <= vocabulary:
        raise ValueError(f"k is {k}: choose a value from 1 to {vocabulary}")
    logprobs = torch.empty(tokens, k, dtype=torch.float32, device=hidden.device)
    ids = None
    if k < vocabulary:
        ids = torch.empty(tokens, k, dtype=torch.int32, device=hidden.device)
    for span, logits in _logits(hidden, weight, chunk):
        total = logits.logsumexp(-1, keepdim=True)
        if ids is not None:
            logits, kept = logits.topk(k, dim=-1)
            ids[span] = kept.to(torch.int32)
        logprobs[span] = logits - total
    return logprobs, ids


def _logits(hidden: torch.Tensor, weight: torch.Tensor, chunk: int) -> Iterator[tuple[slice, torch.Tensor]]:
    for start in range(0, len(hidden), chunk):
        span = slice(start, start + chunk)
        yield span, (hidden[span] @ weight.T).float()
