"""Divergences between student and teacher: token losses over the teacher's full distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses.base import LossInputs, LossOutputs, in_blocks

_LOG_NOTHING = -1e30
"""Replaces the teacher's log 0 in a mixture, whose derivative would be NaN where both probabilities are 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralisedJSD:
    """The generalised Jensen-Shannon divergence of GKD (Agarwal et al., ICLR 2024, arXiv:2306.13649, Eq. 1), in nats.

    With p the teacher's distribution, q the student's, over one vocabulary, and m = beta p + (1 - beta) q:

    - beta = 0: KL(p || q), forward: the cross-entropy with all of p minus the entropy of p; both have the same gradient
    - 0 < beta < 1: beta KL(p || m) + (1 - beta) KL(q || m); at 1/2 it is symmetric, and at most log 2
    - beta = 1: KL(q || p), reverse

    The convention for beta is that of the paper and of TRL. The two ends are defined separately, because the formula in between
    vanishes there, like beta KL(p || q) and (1 - beta) KL(q || p). Near an end beta therefore also scales the loss: at 0.99 it is
    about a hundredth of its value at 1.

    `temperature` T: p and q are the distributions of logits / T. The loss is not multiplied by T^2.

    `entry_clip` c, in nats, only at beta = 0: the loss is sum_v min(p_v log(p_v / q_v), c), as in PW-OPSD. An entry whose term
    exceeds c has no gradient.

    Requires `teacher_logprobs` [T, V], with -inf for probability 0, and no `teacher_ids`; raises `ValueError` otherwise. KL
    divergences are infinite where the second distribution is 0 and the first is not: at beta = 0 the gradient is q - p there too,
    at beta = 1 it does not exist and 0 is returned. Diagnostics: the student's `entropy` and the `teacher_entropy` in nats and
    `sampled_logprob` of the sampled token, at temperature 1 whatever T is. With an entry clip also `clipped_mass`, the nats that
    it removes from the divergence, and `clipped_share`, the sum of p over the entries that it clips.
    """

    beta: float
    temperature: float = 1.0
    entry_clip: float | None = None

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        pair = _pair(logits, inputs, self.temperature)
        reference, infinite = self._reference(pair)
        log_ratio = _log_ratio(pair.q, pair.log_q, reference)
        terms = self._terms(pair, reference, log_ratio)
        losses = self._losses(pair, terms, log_ratio)
        with torch.no_grad():
            diagnostics = self._diagnostics(logits, inputs, pair, terms)
        return LossOutputs(losses=torch.where(infinite, torch.inf, losses), diagnostics=diagnostics)

    @torch.no_grad()
    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """See `AnalyticTokenLoss`. T times the logit gradient is q - p at beta = 0, else weight x q (log(q / r) - KL(q || r)),
        where r is m with weight 1 - beta, or at beta = 1 p with weight 1. With an entry clip p is replaced by 0 in the clipped
        entries, and q is multiplied by the sum of the others."""
        return in_blocks(self._block_gradient_, logits, inputs, coefficients)

    def _block_gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """Compute `gradient_` for a few rows; its temporaries are [rows, V]."""
        pair = _pair(logits, inputs, self.temperature)
        reference, infinite = self._reference(pair)
        log_ratio = _log_ratio(pair.q, pair.log_q, reference)
        terms = self._terms(pair, reference, log_ratio)
        losses = torch.where(infinite, torch.inf, self._losses(pair, terms, log_ratio))
        diagnostics = self._diagnostics(logits, inputs, pair, terms)
        if self.beta == 0.0:
            p = pair.p if self.entry_clip is None else pair.p.masked_fill(terms > self.entry_clip, 0.0)
            torch.mul(pair.q, p.sum(-1, keepdim=True), out=logits).sub_(p)
        else:
            weight = 1.0 if self.beta == 1.0 else 1.0 - self.beta
            torch.sub(log_ratio, (pair.q * log_ratio).sum(-1, keepdim=True), out=logits).mul_(pair.q).mul_(
                weight
            )
        logits.mul_((coefficients / self.temperature)[:, None])
        return LossOutputs(losses=losses, diagnostics=diagnostics)

    def _reference(self, pair: _Pair) -> tuple[Tensor, Tensor]:
        """Return log r [T, V], where r is q, m or p, and a mask [T] of positions where beta is 1 and KL(q || p) infinite. There r
        is q itself, so that the finite part of the loss has no gradient."""
        nowhere = torch.zeros(len(pair.q), dtype=torch.bool, device=pair.q.device)
        if self.beta == 0.0:
            return pair.log_q, nowhere
        if self.beta == 1.0:
            infinite = ((pair.log_p == -torch.inf) & (pair.q > 0)).any(-1)
            return torch.where(infinite[:, None], pair.log_q, pair.log_p), infinite
        of_p = pair.log_p.clamp(min=_LOG_NOTHING) + math.log(self.beta)
        return torch.logaddexp(pair.log_q + math.log1p(-self.beta), of_p), nowhere

    def _terms(self, pair: _Pair, reference: Tensor, log_ratio: Tensor) -> Tensor:
        """Return the terms [T, V] of KL(q || p) at beta = 1, else of KL(p || r), for `log_ratio` = log(q / r)."""
        if self.beta == 1.0:
            return pair.q * log_ratio
        return pair.p * _log_ratio(pair.p, pair.log_p, reference)

    def _losses(self, pair: _Pair, terms: Tensor, log_ratio: Tensor) -> Tensor:
        """Return the divergences [T]."""
        if self.entry_clip is not None:
            return terms.clamp(max=self.entry_clip).sum(-1)
        if self.beta in (0.0, 1.0):
            return terms.sum(-1)
        return self.beta * terms.sum(-1) + (1.0 - self.beta) * (pair.q * log_ratio).sum(-1)

    def _diagnostics(
        self, logits: Tensor, inputs: LossInputs, pair: _Pair, terms: Tensor
    ) -> dict[str, Tensor]:
        plain = pair if self.temperature == 1.0 else _pair(logits, inputs, 1.0)
        found = {
            "entropy": _entropy(plain.q, plain.log_q),
            "teacher_entropy": _entropy(plain.p, plain.log_p),
            "sampled_logprob": plain.log_q.gather(-1, inputs.sampled_ids.long()[:, None]).squeeze(-1),
        }
        if self.entry_clip is not None:
            found["clipped_mass"] = (terms - self.entry_clip).clamp(min=0.0).sum(-1)
            found["clipped_share"] = torch.where(terms > self.entry_clip, pair.p, 0.0).sum(-1)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """The teacher's distribution `p` and the student's `q` at T positions, [T, V], with their logarithms."""

    p: Tensor
    q: Tensor
    log_p: Tensor
    log_q: Tensor


def _pair(logits: Tensor, inputs: LossInputs, temperature: float) -> _Pair:
    log_p = inputs.teacher_logprobs
    if log_p is None:
        raise ValueError("the divergence needs teacher_logprobs: the positions have none")
    if inputs.teacher_ids is not None:
        raise ValueError(
            f"the divergence needs the teacher's full distribution, but has only its {log_p.shape[-1]} most probable tokens: set"
            " top_k to full"
        )
    if log_p.shape != logits.shape:
        raise ValueError(
            f"teacher_logprobs have shape {tuple(log_p.shape)}, but the logits {tuple(logits.shape)}: the divergence needs both"
            " over the same vocabulary"
        )
    log_p = log_p.to(logits.dtype)
    if temperature != 1.0:
        log_p, logits = _renormalised(log_p / temperature), logits / temperature
    log_q = logits.log_softmax(-1)
    return _Pair(p=log_p.exp(), q=log_q.exp(), log_p=log_p, log_q=log_q)


def _log_ratio(probs: Tensor, logprobs: Tensor, reference: Tensor) -> Tensor:
    """Return log(probs / reference) [T, V] from logarithms, with 0 where `probs` is 0, since these terms never count."""
    return torch.where(probs > 0, logprobs - reference, 0.0)


def _renormalised(logprobs: Tensor) -> Tensor:
    """Return the log-softmax [T, V]; rows that are only -inf are unchanged."""
    total = logprobs.logsumexp(-1, keepdim=True)
    return logprobs - torch.where(total > -torch.inf, total, 0.0)


def _entropy(probs: Tensor, logprobs: Tensor) -> Tensor:
    return -(probs * torch.where(probs > 0, logprobs, 0.0)).sum(-1)
