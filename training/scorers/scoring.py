"""Log-probabilities of a frozen LM head for given hidden states, in chunks of positions, so that [T, V] is never materialised.

Dimensions: T positions, H hidden size, V vocabulary size, k kept entries. Log-probabilities are float32, of the full softmax.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

CHUNK = 1024


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
    *,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Return log p (nats) of the tokens `ids` at each position, [T] or [T, k] like these, given hidden states [T, H] and head
    weights [V, H]."""
    out = torch.empty(ids.shape, dtype=torch.float32, device=hidden.device)
    for span, logits in _logits(hidden, weight, chunk):
        if temperature != 1.0:
            logits /= temperature
        chosen = logits.gather(-1, ids[span].reshape(len(logits), -1))
        out[span] = (chosen - logits.logsumexp(-1, keepdim=True)).view_as(out[span])
    return out


def position_scores(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
    *,
    sampled: bool = False,
    top_k: int | None = None,
    entropy: bool = False,
    chunk: int = CHUNK,
) -> dict[str, torch.Tensor]:
    """Return the requested scores for hidden states [T, H], head weights [V, H] and tokens `ids` [T], with one pass over the
    head.

    `sampled` [T]: log p of the tokens. `logprobs` and `ids` [T, k]: the k most likely tokens, descending; with k = V in order of
    ids, and without `ids`. Probabilities are not renormalised: the sum of a row is at most 1. `entropy` [T]: of the full softmax,
    in nats. Raises ValueError if k is not in 1 ... V.
    """
    tokens, vocabulary = len(hidden), len(weight)
    if top_k is not None and not 1 <= top_k <= vocabulary:
        raise ValueError(f"k is {top_k}: choose a value from 1 to {vocabulary}")
    found = _empty(tokens, vocabulary, hidden.device, sampled=sampled, top_k=top_k, entropy=entropy)
    for span, logits in _logits(hidden, weight, chunk):
        total = logits.logsumexp(-1, keepdim=True)
        if sampled:
            found["sampled"][span] = logits.gather(-1, ids[span, None])[:, 0] - total[:, 0]
        if entropy:
            found["entropy"][span] = total[:, 0] - torch.linalg.vecdot(logits.softmax(-1), logits)
        if top_k is not None:
            if "ids" in found:
                logits, kept = logits.topk(top_k, dim=-1)
                found["ids"][span] = kept.to(torch.int32)
            found["logprobs"][span] = logits - total
    return found


def _empty(
    tokens: int,
    vocabulary: int,
    device: torch.device,
    *,
    sampled: bool,
    top_k: int | None,
    entropy: bool,
) -> dict[str, torch.Tensor]:
    """Return uninitialised tensors for the requested scores."""
    found = {
        name: torch.empty(tokens, dtype=torch.float32, device=device)
        for name, wanted in (("sampled", sampled), ("entropy", entropy))
        if wanted
    }
    if top_k is not None:
        found["logprobs"] = torch.empty(tokens, top_k, dtype=torch.float32, device=device)
        if top_k < vocabulary:
            found["ids"] = torch.empty(tokens, top_k, dtype=torch.int32, device=device)
    return found


def _logits(hidden: torch.Tensor, weight: torch.Tensor, chunk: int) -> Iterator[tuple[slice, torch.Tensor]]:
    for start in range(0, len(hidden), chunk):
        span = slice(start, start + chunk)
        yield span, (hidden[span] @ weight.T).float()
