"""Weighted sums of token losses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses.base import AnalyticTokenLoss, LossInputs, LossOutputs, TokenLoss, in_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """The sum of weight x loss over the terms, at least one. Diagnostics: those of all terms; of equal names the first counts."""

    terms: tuple[tuple[float, TokenLoss], ...]

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        return self._sum(loss(logits, inputs) for _, loss in self.terms)

    @torch.no_grad()
    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """See `AnalyticTokenLoss`. A term without an analytic gradient is differentiated by autograd."""
        return in_blocks(self._block_gradient_, logits, inputs, coefficients)

    def _block_gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """Compute `gradient_` for a few rows; its temporaries are [rows, V]."""
        total, parts = torch.zeros_like(logits), []
        for weight, loss in self.terms:
            part = logits.clone()
            parts.append(_gradient_(loss, part, inputs, weight * coefficients))
            total += part
        logits.copy_(total)
        return self._sum(parts)

    def _sum(self, parts: Iterable[LossOutputs]) -> LossOutputs:
        weighted, diagnostics = [], {}
        for (weight, _), part in zip(self.terms, parts, strict=True):
            weighted.append(weight * part.losses)
            diagnostics = {**part.diagnostics, **diagnostics}
        return LossOutputs(losses=torch.stack(weighted).sum(0), diagnostics=diagnostics)


def _gradient_(loss: TokenLoss, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
    """Compute the loss's `gradient_`, by autograd if it has none."""
    if isinstance(loss, AnalyticTokenLoss):
        return loss.gradient_(logits, inputs, coefficients)
    with torch.enable_grad():
        leaf = logits.clone().requires_grad_()
        values = loss(leaf, inputs)
        (gradient,) = torch.autograd.grad((values.losses * coefficients).sum(), leaf)
    logits.copy_(gradient)
    return LossOutputs(losses=values.losses.detach(), diagnostics=values.diagnostics)
