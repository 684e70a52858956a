"""The entropy of the student as a loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses.base import LossInputs, LossOutputs, in_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class NegativeEntropy:
    """-H(q), the negative entropy of the student's full distribution in nats: its minimisation is an entropy bonus.

    Tokens that the student excludes count as 0. Diagnostics: `entropy` and `sampled_logprob` of the sampled token.
    """

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        logprobs = logits.log_softmax(-1)
        probs = logprobs.exp()
        losses = (probs * torch.where(probs > 0, logprobs, 0.0)).sum(-1)
        return _outputs(losses, logprobs, inputs)

    @torch.no_grad()
    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """See `AnalyticTokenLoss`. The logit gradient is q (log q + H)."""
        return in_blocks(self._block_gradient_, logits, inputs, coefficients)

    def _block_gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor) -> LossOutputs:
        """Compute `gradient_` for a few rows; its temporaries are [rows, V]."""
        logprobs = logits.log_softmax(-1)
        probs = logprobs.exp()
        finite = torch.where(probs > 0, logprobs, 0.0)
        losses = (probs * finite).sum(-1)
        torch.mul(probs, finite - losses[:, None], out=logits).mul_(coefficients[:, None])
        return _outputs(losses, logprobs, inputs)


def _outputs(losses: Tensor, logprobs: Tensor, inputs: LossInputs) -> LossOutputs:
    sampled = logprobs.gather(-1, inputs.sampled_ids.long()[:, None]).squeeze(-1)
    return LossOutputs(
        losses=losses, diagnostics={"entropy": -losses.detach(), "sampled_logprob": sampled.detach()}
    )
