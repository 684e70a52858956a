"""A token loss against several teachers at once: the weighted sum of the losses against each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.losses.base import LossInputs, LossOutputs, TokenLoss, in_blocks
from training.losses.by_teacher import BY_TEACHER
from training.losses.combined import gradient_of


@dataclass(frozen=True, slots=True, kw_only=True)
class OfTeachers:
    """The sum over the teachers i of `teacher_factors[:, i]` x inner, where inner gets entry i of the inputs that exist for each
    teacher (`training.losses.by_teacher`). It is computed only where the factor is not 0.

    Raises `ValueError` for positions without `teacher_factors`. Diagnostics: the means of those of inner over the teachers that
    give a number, by their factors; NaN where none does.
    """

    inner: TokenLoss

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        parts = []
        for factors, rows, own in _by_teacher(inputs):
            values = self.inner(logits[rows], own)
            parts.append(_spread(values, factors, rows))
        return _joined(parts)

    @torch.no_grad()
    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """See `AnalyticTokenLoss`."""
        return in_blocks(self._block_gradient_, logits, inputs, coefficients)

    def _block_gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """Compute `gradient_` for a few rows; its temporaries are [rows, V]."""
        total, parts = torch.zeros_like(logits), []
        for factors, rows, own in _by_teacher(inputs):
            chosen = logits[rows]
            values = gradient_of(
                self.inner, chosen, own, factors[rows].to(coefficients.dtype) * coefficients[rows]
            )
            total.index_add_(0, rows, chosen)
            parts.append(_spread(values, factors, rows))
        logits.copy_(total)
        return _joined(parts)


def _by_teacher(inputs: LossInputs) -> list[tuple[Tensor, Tensor, LossInputs]]:
    """Return for each teacher its factors [T], the indices of those that are not 0, and its inputs at these."""
    if inputs.teacher_factors is None:
        raise ValueError("a mixture of teachers needs teacher_factors: the positions have none")
    found = []
    for teacher, factors in enumerate(inputs.teacher_factors.unbind(1)):
        rows = factors.nonzero().flatten()
        chosen = inputs.rows(rows)
        own = {name: getattr(chosen, name) for name in BY_TEACHER}
        own = {name: value[:, teacher] for name, value in own.items() if value is not None}
        found.append((factors, rows, replace(chosen, teacher_factors=None, **own)))
    return found


def _spread(values: LossOutputs, factors: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return a teacher's part of the loss [T], its factors [T], and its diagnostics [T], NaN where it has none."""
    losses = values.losses.new_zeros(len(factors))
    losses = losses.index_copy(0, rows, factors[rows].to(losses.dtype) * values.losses)
    seen = {
        name: one.new_full((len(factors),), torch.nan, dtype=losses.dtype).index_copy(
            0, rows, one.to(losses.dtype)
        )
        for name, one in values.diagnostics.items()
    }
    return losses, factors, seen


def _joined(parts: Sequence[tuple[Tensor, Tensor, dict[str, Tensor]]]) -> LossOutputs:
    losses = torch.stack([one for one, _, _ in parts]).sum(0)
    return LossOutputs(losses=losses, diagnostics={name: _mean(parts, name) for name in parts[0][2]})


def _mean(parts: Sequence[tuple[Tensor, Tensor, dict[str, Tensor]]], name: str) -> Tensor:
    values = torch.stack([seen[name] for _, _, seen in parts])
    factors = torch.stack([one for _, one, _ in parts]).to(values.dtype)
    given = torch.where(values.isnan(), 0.0, factors)
    total = given.sum(0)
    mean = torch.where(given == 0, 0.0, given * values).sum(0) / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, mean, torch.nan)
