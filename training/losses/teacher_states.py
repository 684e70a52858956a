"""The teacher's full distribution, computed from its last hidden states: the student receives [T, H] instead of [T, V].

For Qwen3-8B (H = 4,096, V = 151,936) that is 8 KB per token instead of 608 KB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.losses.base import AnalyticTokenLoss, LossInputs, LossOutputs, TokenLoss


def from_states(inner: TokenLoss, head: Tensor) -> TokenLoss:
    """Return `inner`, a loss over the teacher's full distribution, for positions that have teacher states instead.

    `head` [V, H]: the teacher's LM head over the shared vocabulary, with the dtype and on the device of the states. The teacher's
    logits have that dtype; its log-softmax is float32 (float64 for float64), as in `training.scorers.scoring`. Both are allocated
    for the positions of one call only. The loss raises `ValueError` for positions without states.
    """
    if isinstance(inner, AnalyticTokenLoss):
        return AnalyticTeacherStates(inner=inner, head=head)
    return TeacherStates(inner=inner, head=head)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeacherStates:
    """See `from_states`."""

    inner: TokenLoss
    head: Tensor

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        return self.inner(logits, _with_distribution(inputs, self.head))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnalyticTeacherStates(TeacherStates):
    """`TeacherStates` with an analytic gradient, for an inner loss that has one."""

    inner: AnalyticTokenLoss

    @torch.no_grad()
    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """See `AnalyticTokenLoss`."""
        return self.inner.gradient_(logits, _with_distribution(inputs, self.head), coefficients)


def _with_distribution(inputs: LossInputs, head: Tensor) -> LossInputs:
    """Return the positions with the teacher's log-probabilities in place of its states."""
    states = inputs.teacher_states
    if states is None:
        raise ValueError("the loss needs teacher_states: the positions have none")
    with torch.no_grad():
        logits = states @ head.T
        logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return replace(inputs, teacher_states=None, teacher_logprobs=logprobs)
