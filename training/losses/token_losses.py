"""Token losses: pure functions of a chunk of logits [T, V] and the loss inputs of its T positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.losses.base import LossInputs, LossOutputs, in_blocks, softmax_and_logsumexp

TopKForm = Literal["teacher_renormalised", "tail_bucket", "unnormalised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKCrossEntropy:
    """Cross-entropy of the student with the teacher's k most probable tokens (UOPD Eq. 7), or with all tokens.

    With p_j the teacher's probabilities, m their sum and log q_j the student's log-probabilities from its full softmax:

    - `teacher_renormalised` (the paper's): -sum_j p_j / m log q_j
    - `unnormalised`: -sum_j p_j log q_j
    - `tail_bucket`: `unnormalised` plus -(1 - m) log(1 - sum_j q_j), with all other tokens as one outcome

    The three are equal over the full vocabulary. Positions without teacher entries have loss 0 and gradient 0.

    `temperature` T, only with `teacher_renormalised`: the loss compares the distributions of logits / T. The teacher's is
    renormalised over its k tokens, p_j^(1/T) / sum_i p_i^(1/T), the student's is its full softmax. The loss is not multiplied by
    T^2. Diagnostics, at temperature 1 whatever T is: `teacher_mass` m, `student_mass` sum_j q_j, the student's `entropy` in nats,
    `sampled_logprob` of the sampled token.

    `as_kl`: the loss is the divergence of the student from the same weights, that is, without their entropy, which has no
    gradient. Further diagnostic: `forward_kl`, its value.
    """

    form: TopKForm = "teacher_renormalised"
    temperature: float = 1.0
    as_kl: bool = False

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        target = _target(inputs, logits, self.form, self.temperature)
        normaliser = logits.logsumexp(-1)
        chosen = target.gather(logits) - normaliser[:, None]
        with torch.no_grad():
            logprobs = logits - normaliser[:, None]
            diagnostics = _diagnostics(
                target=target,
                chosen=chosen,
                entropy=-(logprobs.exp() * logprobs).sum(-1),
                sampled=_at(logprobs, inputs.sampled_ids),
            )
        if self.temperature != 1.0:
            scaled = logits / self.temperature
            chosen = target.gather(scaled) - scaled.logsumexp(-1)[:, None]
        losses = -(target.probs * torch.where(target.used, chosen, 0.0)).sum(-1)
        if self.form == "tail_bucket":
            losses = losses - target.tail * _log_tail(logits, normaliser, target)
        return self._outputs(losses, target, diagnostics)

    @torch.no_grad()
    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """See `AnalyticTokenLoss`. T times the logit gradient is mass x softmax - scatter(p). The tail bucket adds its own."""
        return in_blocks(self._block_gradient_, logits, inputs, coefficients)

    def _block_gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """Compute `gradient_` for a few rows; its temporaries are [rows, V]."""
        target = _target(inputs, logits, self.form, self.temperature)
        softmax, normaliser = softmax_and_logsumexp(logits)
        chosen = target.gather(logits) - normaliser[:, None]
        diagnostics = _diagnostics(
            target=target,
            chosen=chosen,
            entropy=normaliser - torch.linalg.vecdot(softmax, logits),
            sampled=_at(logits, inputs.sampled_ids) - normaliser,
        )
        if self.temperature != 1.0:
            softmax, normaliser = softmax_and_logsumexp(logits.div_(self.temperature))
            chosen = target.gather(logits) - normaliser[:, None]
            coefficients = coefficients / self.temperature
        losses = -(target.probs * torch.where(target.used, chosen, 0.0)).sum(-1)
        scale = target.probs.sum(-1)
        if self.form == "tail_bucket":
            rest_softmax, log_rest = softmax_and_logsumexp(_without(logits, target))
            losses = losses - torch.where(target.tail > 0, target.tail * (log_rest - normaliser), 0.0)
            rest_softmax.mul_((target.tail * coefficients)[:, None])
            torch.mul(softmax, ((scale + target.tail) * coefficients)[:, None], out=logits).sub_(rest_softmax)
        else:
            torch.mul(softmax, (scale * coefficients)[:, None], out=logits)
        target.subtract_(logits, target.probs * coefficients[:, None])
        return self._outputs(losses, target, diagnostics)

    def _outputs(self, losses: Tensor, target: _Target, diagnostics: dict[str, Tensor]) -> LossOutputs:
        if self.as_kl:
            losses = losses + target.negative_entropy(with_tail=self.form == "tail_bucket")
            diagnostics = {**diagnostics, "forward_kl": losses.detach()}
        return LossOutputs(losses=losses, diagnostics=diagnostics)


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

    def negative_entropy(self, *, with_tail: bool) -> Tensor:
        """Return sum_j w_j log w_j [T] over the weights, with that of the tail if asked for."""
        total = torch.xlogy(self.probs, self.probs).sum(-1)
        return total + torch.xlogy(self.tail, self.tail) if with_tail else total

    def subtract_(self, values: Tensor, amounts: Tensor) -> None:
        """Subtract `amounts` [T, k] from these entries in place."""
        if self.ids is None:
            values[:, : amounts.shape[-1]].sub_(amounts)
        else:
            values.scatter_add_(-1, self.ids, amounts.neg())


def _target(inputs: LossInputs, logits: Tensor, form: TopKForm, temperature: float) -> _Target:
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
    logprobs = torch.where(used, logprobs.to(logits.dtype), -torch.inf)
    probs = logprobs.exp()
    mass = probs.sum(-1)
    if temperature != 1.0:
        probs = torch.where(
            used, (logprobs / temperature).softmax(-1), 0.0
        )  # a row without entries would be NaN
    elif form == "teacher_renormalised":
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
