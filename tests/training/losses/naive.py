"""Reference implementations: the definitions, row by row on full float64 logits, independent of the token losses and the head."""

from __future__ import annotations

import torch
from torch import Tensor

from training.losses.base import LossInputs


def naive_losses(logits: Tensor, inputs: LossInputs, form: str) -> Tensor:
    """Return the top-k cross-entropy [T] of float64 logits [T, V], computed in a loop over outcomes."""
    assert inputs.teacher_logprobs is not None
    rows = []
    for t in range(len(logits)):
        logprobs = logits[t] - torch.log(torch.exp(logits[t] - logits[t].max()).sum()) - logits[t].max()
        row = inputs.teacher_logprobs[t].double()
        ids = range(len(row)) if inputs.teacher_ids is None else inputs.teacher_ids[t].tolist()
        entries = {
            i: p for i, p in zip(ids, row.exp().tolist(), strict=True) if p > 0 and 0 <= i < len(logprobs)
        }
        mass = sum(entries.values())
        total = logprobs.sum() * 0.0
        for i, p in entries.items():
            total = total - (p / mass if form == "teacher_renormalised" else p) * logprobs[i]
        others = [i for i in range(len(logprobs)) if i not in entries]
        if form == "tail_bucket" and entries and others and mass < 1:
            total = total - (1 - mass) * torch.logsumexp(logprobs[others], 0)
        rows.append(total)
    return torch.stack(rows)


def naive_head(
    hidden: Tensor, weight: Tensor, inputs: LossInputs, coefficients: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sum_t c_t l_t and its gradients with respect to hidden and weight, all in float64."""
    hidden, weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    loss = (naive_losses(hidden @ weight.T, inputs, form) * coefficients.double()).sum()
    loss.backward()
    assert hidden.grad is not None and weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


def teacher_top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return fp32 log-probabilities [T, k] from the full softmax and their ids [T, k]."""
    top = torch.log_softmax(logits.float(), -1).topk(k)
    return top.values, top.indices


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Return |got - expected| / |expected| in the Euclidean norm."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm().clamp_min(1e-300))
