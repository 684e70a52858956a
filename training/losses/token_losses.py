"""Token losses: pure functions of a chunk of logits [T, V] and the loss inputs of its T positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from training.losses.base import AnalyticTokenLoss, LossInputs, LossOutputs, TokenLoss, in_blocks

TopKForm = Literal["teacher_renormalised", "tail_bucket", "unnormalised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKCrossEntropy:
    """Cross-entropy of the student with the teacher's k most probable tokens (UOPD Eq. 7), or with all tokens.

    With p_j the teacher's probabilities, m their sum and log q_j the student's log-probabilities from its full softmax:

    - `teacher_renormalised` (the paper's): -sum_j p_j / m log q_j
    - `unnormalised`: -sum_j p_j log q_j
    - `tail_bucket`: `unnormalised` plus -(1 - m) log(1 - sum_j q_j), with all other tokens as one outcome

    The three are equal over the full vocabulary. Positions without teacher entries have loss 0 and gradient 0. Diagnostics:
    `teacher_mass` m, `student_mass` sum_j q_j, the student's `entropy` in nats, `sampled_logprob` of the sampled token.
    """

    form: TopKForm = "teacher_renormalised"

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        target = _target(inputs, logits, self.form)
        normaliser = logits.logsumexp(-1)
        chosen = target.gather(logits) - normaliser[:, None]
        losses = -(target.probs * torch.where(target.used, chosen, 0.0)).sum(-1)
        if self.form == "tail_bucket":
            losses = losses - target.tail * _log_tail(logits, normaliser, target)
        with torch.no_grad():
            logprobs = logits - normaliser[:, None]
            diagnostics = _diagnostics(
                target=target,
                chosen=chosen,
                entropy=-(logprobs.exp() * logprobs).sum(-1),
                sampled=_at(logprobs, inputs.sampled_ids),
            )
        return LossOutputs(losses=losses, diagnostics=diagnostics)

    @torch.no_grad()
    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """See `AnalyticTokenLoss`. The logit gradient is mass x softmax - scatter(p); the tail bucket adds its own softmax."""
        return in_blocks(self._block_gradient_, logits, inputs, coefficients)

    def _block_gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """Compute `gradient_` for a few rows; its temporaries are [rows, V]."""
        target = _target(inputs, logits, self.form)
        softmax = logits.softmax(-1)
        normaliser = logits.amax(-1) - softmax.amax(-1).log()  # logsumexp, with fewer passes over [rows, V]
        chosen = target.gather(logits) - normaliser[:, None]
        sampled = _at(logits, inputs.sampled_ids) - normaliser
        losses = -(target.probs * torch.where(target.used, chosen, 0.0)).sum(-1)
        entropy = normaliser - torch.linalg.vecdot(softmax, logits)
        scale = target.probs.sum(-1)
        if self.form == "tail_bucket":
            rest = _without(logits, target)
            rest_softmax = rest.softmax(-1)
            log_rest = rest.amax(-1) - rest_softmax.amax(-1).log()
            losses = losses - torch.where(target.tail > 0, target.tail * (log_rest - normaliser), 0.0)
            rest_softmax.mul_((target.tail * coefficients)[:, None])
            torch.mul(softmax, ((scale + target.tail) * coefficients)[:, None], out=logits).sub_(rest_softmax)
        else:
            torch.mul(softmax, (scale * coefficients)[:, None], out=logits)
        target.subtract_(logits, target.probs * coefficients[:, None])
        diagnostics = _diagnostics(target=target, chosen=chosen, entropy=entropy, sampled=sampled)
        return LossOutputs(losses=losses, diagnostics=diagnostics)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceKL:
    """A token loss plus `coefficient` (beta) times the KL divergence of the student from the reference, its initial weights.

    The divergence is estimated from the sampled token. With d = log p_reference - log p_student of that token, the penalty is
    beta (exp(d) - d - 1): Schulman's k3 estimator, used as in GRPO (DeepSeekMath, arXiv:2402.03300, Eq. 4). It is never negative.
    Over tokens that the student samples at temperature 1, its mean is KL(student || reference), while the mean of its gradient,
    taken with the sampled token fixed, is the gradient of KL(reference || student). Diagnostics: those of `inner`, and
    `reference_kl`, the estimate in nats.
    """

    inner: TokenLoss
    coefficient: float

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        values = self.inner(logits, inputs)
        sampled = _at(logits, inputs.sampled_ids) - logits.logsumexp(-1)
        return self._added(values, _behind(inputs, sampled))

    def _added(self, values: LossOutputs, behind: Tensor) -> LossOutputs:
        """Return the values of the inner loss with the penalty for d = `behind` [T] added."""
        estimate = behind.expm1() - behind
        return replace(
            values,
            losses=values.losses + self.coefficient * estimate,
            diagnostics={**values.diagnostics, "reference_kl": estimate.detach()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyticReferenceKL(ReferenceKL):
    """`ReferenceKL` with an analytic gradient, for an inner loss that has one."""

    inner: AnalyticTokenLoss

    @torch.no_grad()
    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """See `AnalyticTokenLoss`. The penalty adds beta (exp(d) - 1) (softmax - one_hot(sampled)) to the logit gradient."""
        return in_blocks(self._block_gradient_, logits, inputs, coefficients)

    def _block_gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        ids, softmax = inputs.sampled_ids, logits.softmax(-1)
        sampled = _at(logits, ids) - (logits.amax(-1) - softmax.amax(-1).log())
        behind = _behind(inputs, sampled)
        sampled_gradient = self.coefficient * behind.expm1() * coefficients
        values = self.inner.gradient_(logits, inputs, coefficients)
        logits.add_(softmax.mul_(sampled_gradient[:, None]))
        logits.scatter_add_(-1, ids.long()[:, None], sampled_gradient.neg()[:, None])
        return self._added(values, behind)


def _behind(inputs: LossInputs, sampled: Tensor) -> Tensor:
    """Return d [T], the reference log-probabilities of the sampled tokens minus the student's, which are `sampled` [T]."""
    if inputs.reference_logprobs is None:
        raise ValueError("the reference KL penalty needs reference_logprobs: the positions have none")
    return inputs.reference_logprobs.to(sampled.dtype) - sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """The target distribution of a chunk: weights `probs` [T, k] of log q_j (0 if padding), at token `ids`, or at column j.

    `used` bool [T, k]: not padding. `mass` [T]: m. `tail` [T]: weight of the bucket of all other tokens, 0 if there are none.
    """

    ids: Tensor | None
    probs: Tensor
    used: Tensor
    mass: Tensor
    tail: Tensor

    def gather(self, values: Tensor) -> Tensor:
        """Return the entries [T, k] of `values` [T, V] at the teacher's tokens."""
        return values[:, : self.probs.shape[-1]] if self.ids is None else values.gather(-1, self.ids)

    def subtract_(self, values: Tensor, amounts: Tensor) -> None:
        """Subtract `amounts` [T, k] from these entries in place."""
        if self.ids is None:
            values[:, : amounts.shape[-1]].sub_(amounts)
        else:
            values.scatter_add_(-1, self.ids, amounts.neg())


def _target(inputs: LossInputs, logits: Tensor, form: TopKForm) -> _Target:
    vocabulary = logits.shape[-1]
    logprobs, ids = inputs.teacher_logprobs, inputs.teacher_ids
    if logprobs is None:
        raise ValueError("the top-k cross-entropy needs teacher_logprobs: the positions have none")
    if ids is None:
        logprobs = logprobs[:, :vocabulary]
        used = logprobs > -torch.inf
    else:
        used = (logprobs > -torch.inf) & (ids >= 0) & (ids < vocabulary)
        ids = torch.where(used, ids, 0).long()
    probs = torch.where(used, logprobs.to(logits.dtype), -torch.inf).exp()
    mass = probs.sum(-1)
    if form == "teacher_renormalised":
        probs = probs / torch.where(mass > 0, mass, 1.0)[:, None]
    has_tail = (mass > 0) & (used.sum(-1) < vocabulary)
    tail = torch.where(has_tail, 1.0 - mass, 0.0).clamp_(min=0.0)
    return _Target(ids=ids, probs=probs, used=used, mass=mass, tail=tail)


def _without(logits: Tensor, target: _Target) -> Tensor:
    """Return a copy of the logits with -inf at the teacher's tokens; rows without a tail are unchanged, so they stay finite."""
    hidden = target.used & (target.tail > 0)[:, None]
    if target.ids is None:
        head = torch.where(hidden, -torch.inf, target.gather(logits))
        return torch.cat([head, logits[:, head.shape[-1] :]], dim=-1)
    # Padding has id 0: adding 0 leaves that token unchanged, while a plain scatter would overwrite it.
    offsets = torch.where(hidden, -torch.inf, 0.0).to(logits.dtype)
    return logits.scatter_add(-1, target.ids, offsets)


def _log_tail(logits: Tensor, normaliser: Tensor, target: _Target) -> Tensor:
    """Return log(1 - sum_j q_j) [T], computed without cancellation; 0 in rows without a tail."""
    return torch.where(target.tail > 0, _without(logits, target).logsumexp(-1) - normaliser, 0.0)


def _at(values: Tensor, ids: Tensor) -> Tensor:
    return values.gather(-1, ids.long()[:, None]).squeeze(-1)


def _diagnostics(*, target: _Target, chosen: Tensor, entropy: Tensor, sampled: Tensor) -> dict[str, Tensor]:
    return {
        "teacher_mass": target.mass,
        "student_mass": torch.where(target.used, chosen, -torch.inf).exp().sum(-1),
        "entropy": entropy,
        "sampled_logprob": sampled,
    }
