"""A teacher's full distribution from its last hidden states: what travels to the student is [T, H], not [T, V].

At Qwen3-8B's sizes (H = 4,096, V = 151,936) that is 8 KB a token in place of 608.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.objectives.base import AnalyticTokenLoss, Positions, TokenLoss, TokenValues


def from_states(inner: TokenLoss, head: Tensor) -> TokenLoss:
    """`inner`, a loss over the teacher's full distribution, for positions that carry the teacher's states instead.

    `head` [V, H] is the teacher's LM head over the shared vocabulary, in the type and on the device of the states. The
    teacher's logits come in that type, its log-softmax is float32 (float64 for float64), as `training.rollout.scoring` has
    it; they exist for as many positions at a time as the loss is asked for. ValueError for positions without states.
    """
    if isinstance(inner, AnalyticTokenLoss):
        return AnalyticTeacherStates(inner=inner, head=head)
    return TeacherStates(inner=inner, head=head)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeacherStates:
    """See `from_states`."""

    inner: TokenLoss
    head: Tensor

    def __call__(self, logits: Tensor, positions: Positions) -> TokenValues:
        return self.inner(logits, _told(positions, self.head))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnalyticTeacherStates(TeacherStates):
    """`TeacherStates` of a loss that writes its own gradient, and so does this one."""

    inner: AnalyticTokenLoss

    @torch.no_grad()
    def gradient_(self, logits: Tensor, positions: Positions, coefficients: Tensor) -> TokenValues:
        """See `AnalyticTokenLoss`."""
        return self.inner.gradient_(logits, _told(positions, self.head), coefficients)


def _told(positions: Positions, head: Tensor) -> Positions:
    """The positions with the distribution that their states stand for."""
    states = positions.teacher_states
    if states is None:
        raise ValueError("the loss needs the teacher's hidden states of these positions")
    with torch.no_grad():
        logits = states @ head.T
        logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return replace(positions, teacher_states=None, teacher_logprobs=logprobs)
