"""A token loss on a few logits or through the LM head, by its analytic gradient or by autograd."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses.base import AnalyticTokenLoss, LossInputs, LossOutputs, TokenLoss
from training.losses.head import HeadResult, chunked_head


@dataclass(frozen=True, slots=True)
class ByGraph:
    """A token loss without its analytic gradient, so that autograd is used."""

    loss: TokenLoss

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        return self.loss(logits, inputs)


def with_gradient(
    loss: TokenLoss, logits: Tensor, inputs: LossInputs, coefficients: Tensor | None = None
) -> tuple[LossOutputs, Tensor]:
    """Return the values and the gradient of their weighted sum: analytic if the loss has one, else by autograd."""
    weights = torch.ones(len(logits), dtype=logits.dtype) if coefficients is None else coefficients
    leaf = logits.detach().clone()
    if isinstance(loss, AnalyticTokenLoss):
        return loss.gradient_(leaf, inputs, weights), leaf
    values = loss(leaf.requires_grad_(), inputs)
    (gradient,) = torch.autograd.grad((values.losses * weights).sum(), leaf)
    return values, gradient


def through_the_head(
    loss: TokenLoss, hidden: Tensor, weight: Tensor, inputs: LossInputs, coefficients: Tensor
) -> tuple[HeadResult, Tensor, Tensor]:
    """Return the chunked head's result and its gradients with respect to hidden and weight, in chunks of 20 positions."""
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    result = chunked_head(leaves[0], leaves[1], loss, inputs, coefficients, chunk_size=20)
    result.loss.backward()
    assert leaves[0].grad is not None and leaves[1].grad is not None
    return result, leaves[0].grad, leaves[1].grad
