"""Losses that depend on the student's distribution only through the log-probability of the sampled token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training.losses.base import LossInputs, LossOutputs, in_blocks, softmax_and_logsumexp


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledOutputs:
    """The values of a `SampledLoss`: `losses` [T] in nats, `slopes` [T], their derivatives, and `diagnostics` [T]."""

    losses: Tensor
    slopes: Tensor
    diagnostics: dict[str, Tensor]


class SampledLoss(Protocol):
    """The student's log-probabilities [T] of the sampled tokens, the entropy [T] of its distributions (a constant) and their T
    positions -> losses and their derivatives with respect to these log-probabilities. Pure; the losses are differentiable by
    autograd, too."""

    def __call__(self, logprobs: Tensor, entropy: Tensor, inputs: LossInputs, /) -> SampledOutputs: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FromSampled:
    """The token loss of a `SampledLoss`, with the student's full softmax at temperature 1 and an analytic gradient.

    Diagnostics: those of `loss`, the student's `entropy` in nats and `sampled_logprob` of the sampled token.
    """

    loss: SampledLoss

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        logprobs = logits.log_softmax(-1)
        sampled = logprobs.gather(-1, inputs.sampled_ids.long()[:, None]).squeeze(-1)
        with torch.no_grad():
            probs = logprobs.exp()
            entropy = -(probs * torch.where(probs > 0, logprobs, 0.0)).sum(-1)
        values = self.loss(sampled, entropy, inputs)
        return _outputs(values, sampled, entropy)

    @torch.no_grad()
    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """See `AnalyticTokenLoss`. The logit gradient is slope x (one_hot(sampled) - softmax)."""
        return in_blocks(self._block_gradient_, logits, inputs, coefficients)

    def _block_gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """Compute `gradient_` for a few rows; its temporaries are [rows, V]."""
        ids = inputs.sampled_ids.long()[:, None]
        softmax, normaliser = softmax_and_logsumexp(logits)
        sampled = logits.gather(-1, ids).squeeze(-1) - normaliser
        entropy = normaliser - torch.linalg.vecdot(softmax, torch.where(softmax > 0, logits, 0.0))
        values = self.loss(sampled, entropy, inputs)
        slopes = values.slopes * coefficients
        torch.mul(softmax, slopes.neg()[:, None], out=logits)
        logits.scatter_add_(-1, ids, slopes[:, None])
        return _outputs(values, sampled, entropy)


def _outputs(values: SampledOutputs, sampled: Tensor, entropy: Tensor) -> LossOutputs:
    diagnostics = {**values.diagnostics, "entropy": entropy, "sampled_logprob": sampled}
    return LossOutputs(
        losses=values.losses, diagnostics={name: value.detach() for name, value in diagnostics.items()}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NegativeLogLikelihood:
    """-log q of the sampled token, the loss of supervised fine-tuning; infinite where the student excludes the token."""

    def __call__(self, logprobs: Tensor, entropy: Tensor, inputs: LossInputs) -> SampledOutputs:
        return SampledOutputs(losses=-logprobs, slopes=torch.full_like(logprobs, -1.0), diagnostics={})


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageLikelihood:
    """-A log q of the sampled token, whose gradient is the policy gradient of rollouts that the student itself sampled: A is the
    advantage. Raises `ValueError` for positions without advantages. Diagnostics: `advantage`."""

    def __call__(self, logprobs: Tensor, entropy: Tensor, inputs: LossInputs) -> SampledOutputs:
        if inputs.advantages is None:
            raise ValueError("the likelihood needs advantages: the positions have none")
        advantages = inputs.advantages.to(logprobs.dtype)
        gain = torch.where(advantages == 0, 0.0, advantages * logprobs)
        return SampledOutputs(losses=-gain, slopes=-advantages, diagnostics={"advantage": advantages})


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradient:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), the clipped objective of PPO (arXiv:1707.06347, Eq. 7) as in GRPO
    (DeepSeekMath, arXiv:2402.03300, Eq. 3). A is the advantage, r the student's probability of the sampled token divided by that
    from `old_logprobs`, or from `rollout_logprobs` where these are None.

    A bound of None does not exist; without both the loss is -r A. On-policy, where r = 1, the gradient is that of -A log q. Old
    log-probabilities must be finite. `shaping` c: the advantage is A + min(c H, |A| / 2), with H the student's present entropy as
    a constant, so that it keeps its sign (advantage shaping, arXiv:2506.14758). Raises `ValueError` for positions without
    advantages or old log-probabilities. Diagnostics: `ratio` r; `clipped`, 1 where the clip makes the gradient zero, else 0;
    `ratio_outside`, 1 where r is outside the bounds, whatever the sign of A, else 0.
    """

    clip_low: float | None = 0.2
    clip_high: float | None = 0.2
    shaping: float | None = None

    def __call__(self, logprobs: Tensor, entropy: Tensor, inputs: LossInputs) -> SampledOutputs:
        old = inputs.rollout_logprobs if inputs.old_logprobs is None else inputs.old_logprobs
        if inputs.advantages is None or old is None:
            raise ValueError(
                "the policy gradient needs advantages and old_logprobs or rollout_logprobs: the positions have none"
            )
        advantages = inputs.advantages.to(logprobs.dtype)
        if self.shaping is not None:
            advantages = advantages + torch.minimum(self.shaping * entropy, advantages.abs() / 2)
        lowest = 0.0 if self.clip_low is None else 1.0 - self.clip_low
        highest = math.inf if self.clip_high is None else 1.0 + self.clip_high
        ratio = (logprobs - old.to(logprobs.dtype)).exp()
        gain = torch.minimum(ratio * advantages, ratio.clamp(lowest, highest) * advantages)
        below, above = ratio < lowest, ratio > highest
        clipped = (above & (advantages > 0)) | (below & (advantages < 0))
        return SampledOutputs(
            losses=-gain,
            slopes=torch.where(clipped, 0.0, -ratio * advantages),
            diagnostics={
                "ratio": ratio,
                "clipped": clipped.to(ratio.dtype),
                "ratio_outside": (below | above).to(ratio.dtype),
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceKL:
    """An estimate of the student's KL divergence from the reference, its initial weights.

    With d = log p_reference - log p_student of the sampled token, it is exp(d) - d - 1: Schulman's k3 estimator, used as in GRPO
    (DeepSeekMath, arXiv:2402.03300, Eq. 4). It is never negative. Over tokens that the student samples at temperature 1, its mean
    is KL(student || reference), while the mean of its gradient, taken with the sampled token fixed, is the gradient of
    KL(reference || student). Raises `ValueError` for positions without `reference_logprobs`. Diagnostics: `reference_kl`, the
    estimate in nats.
    """

    def __call__(self, logprobs: Tensor, entropy: Tensor, inputs: LossInputs) -> SampledOutputs:
        if inputs.reference_logprobs is None:
            raise ValueError("the reference KL needs reference_logprobs: the positions have none")
        behind = inputs.reference_logprobs.to(logprobs.dtype) - logprobs
        estimate = behind.expm1() - behind
        return SampledOutputs(losses=estimate, slopes=-behind.expm1(), diagnostics={"reference_kl": estimate})
