"""Weighted sums of token losses, token losses at some of the tokens, and token losses beside a sequence loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses.base import AnalyticTokenLoss, LossInputs, LossOutputs, TokenLoss, in_blocks
from training.losses.sampled_losses import FromSampled, SampledOutputs


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
            parts.append(gradient_of(loss, part, inputs, weight * coefficients))
            total += part
        logits.copy_(total)
        return self._sum(parts)

    def _sum(self, parts: Iterable[LossOutputs]) -> LossOutputs:
        weighted, diagnostics = [], {}
        for (weight, _), part in zip(self.terms, parts, strict=True):
            weighted.append(weight * part.losses)
            diagnostics = {**part.diagnostics, **diagnostics}
        return LossOutputs(losses=torch.stack(weighted).sum(0), diagnostics=diagnostics)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnSomeTokens:
    """`inner` times the column `column` of `term_weights`, computed only where that is not 0.

    Raises `ValueError` for positions without `term_weights`. Diagnostics: those of `inner`, NaN where it is not computed, and
    `term_weight_<column>`, the factors.
    """

    inner: TokenLoss
    column: int

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        factors, rows = self._factors(logits, inputs)
        return self._outputs(self.inner(logits[rows], inputs.rows(rows)), factors, rows)

    @torch.no_grad()
    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """See `AnalyticTokenLoss`."""
        factors, rows = self._factors(logits, inputs)
        chosen = logits[rows]
        values = gradient_of(self.inner, chosen, inputs.rows(rows), (factors * coefficients)[rows])
        logits.zero_().index_copy_(0, rows, chosen)
        return self._outputs(values, factors, rows)

    def _factors(self, logits: Tensor, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        """Return the factors [T] and the indices of those that are not 0."""
        if inputs.term_weights is None:
            raise ValueError("a term with token weights needs term_weights: the positions have none")
        factors = inputs.term_weights[:, self.column].to(logits.dtype)
        return factors, factors.nonzero().flatten()

    def _outputs(self, values: LossOutputs, factors: Tensor, rows: Tensor) -> LossOutputs:
        losses = torch.zeros_like(factors).index_copy(0, rows, factors[rows] * values.losses)
        seen = {
            name: torch.full_like(factors, torch.nan).index_copy(0, rows, one.to(factors.dtype))
            for name, one in values.diagnostics.items()
        }
        return LossOutputs(losses=losses, diagnostics={**seen, f"term_weight_{self.column}": factors})


@dataclass(frozen=True, slots=True, kw_only=True)
class WithSequenceLoss:
    """Token losses beside a sequence loss, whose derivatives are known before the backward pass.

    The loss of a position is `token_coefficients` x inner + `sequence_slopes` x log q of the sampled token, so that with
    coefficient 1 at all positions the gradient of the sum is that of both losses. `inner`: None if there are no token losses;
    where its coefficient is 0 it has no effect, whatever its value is. Raises `ValueError` for positions without slopes.
    Diagnostics: those of `inner`, the student's `entropy` and `sampled_logprob`.
    """

    inner: TokenLoss | None = None

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        linear = _LINEAR(logits, inputs)
        if self.inner is None:
            return linear
        return self._added(self.inner(logits, inputs), linear, _token_coefficients(inputs))

    @torch.no_grad()
    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """See `AnalyticTokenLoss`."""
        return in_blocks(self._block_gradient_, logits, inputs, coefficients)

    def _block_gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """Compute `gradient_` for a few rows; its temporaries are [rows, V]."""
        if self.inner is None:
            return _LINEAR.gradient_(logits, inputs, coefficients)
        factors, part = _token_coefficients(inputs).to(coefficients.dtype), logits.clone()
        values = gradient_of(self.inner, part, inputs, factors * coefficients)
        linear = _LINEAR.gradient_(logits, inputs, coefficients)
        logits += part.masked_fill_((factors == 0)[:, None], 0.0)
        return self._added(values, linear, factors)

    @staticmethod
    def _added(values: LossOutputs, linear: LossOutputs, factors: Tensor) -> LossOutputs:
        return LossOutputs(
            losses=torch.where(factors == 0, 0.0, factors * values.losses) + linear.losses,
            diagnostics={**linear.diagnostics, **values.diagnostics},
        )


def _token_coefficients(inputs: LossInputs) -> Tensor:
    if inputs.token_coefficients is None:
        raise ValueError(
            "token losses beside a sequence loss need token_coefficients: the positions have none"
        )
    return inputs.token_coefficients


def gradient_of(loss: TokenLoss, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
    """Overwrite the logits with the loss's `gradient_`, by autograd if it has none; return its values."""
    if isinstance(loss, AnalyticTokenLoss):
        return loss.gradient_(logits, inputs, coefficients)
    with torch.enable_grad():
        leaf = logits.clone().requires_grad_()
        values = loss(leaf, inputs)
        (gradient,) = torch.autograd.grad((values.losses * coefficients).sum(), leaf)
    logits.copy_(gradient)
    return LossOutputs(losses=values.losses.detach(), diagnostics=values.diagnostics)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linear:
    """slope x log q of the sampled token."""

    def __call__(self, logprobs: Tensor, entropy: Tensor, inputs: LossInputs) -> SampledOutputs:
        if inputs.sequence_slopes is None:
            raise ValueError("a sequence loss needs sequence_slopes: the positions have none")
        slopes = inputs.sequence_slopes.to(logprobs.dtype)
        losses = torch.where(slopes == 0, 0.0, slopes * logprobs)
        return SampledOutputs(losses=losses, slopes=slopes, diagnostics={})


_LINEAR = FromSampled(loss=_Linear())
