"""Loss inputs and outputs, and the protocols of token losses and token weights.

Shapes: S sequences, T response positions, V vocabulary, k entries of the teacher's distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """The loss inputs at T response positions of some sequences, concatenated. Fields are None or have first dimension T.

    `sampled_ids` int [T]: the sampled token, that is, the one that follows the position.
    `teacher_logprobs` fp32 [T, k]: the teacher's log-probabilities, from its full softmax over the shared vocabulary at
    temperature 1, padded with -inf.
    `teacher_ids` int [T, k]: their tokens, each at most once per row; ids outside the student's vocabulary count as padding.
    None: column j is token j, up to the full vocabulary.
    `teacher_states` [T, H]: the teacher's last hidden states, which represent its full distribution (see
    `training.losses.teacher_states`).
    `rollout_logprobs` fp32 [T]: log-probabilities of the sampled tokens from the engine that sampled them.
    `reference_logprobs` fp32 [T]: those of the initial student, over the shared vocabulary.
    `old_logprobs` fp32 [T]: those of the student at the start of the batch's first update, the denominators of policy ratios.
    None: `rollout_logprobs` are the denominators.
    `advantages` fp32 [T]: signed factors of a policy gradient.
    `teacher_sampled_logprobs` fp32 [T]: the teacher's log-probabilities of the sampled tokens.
    `teacher_entropy` fp32 [T]: the entropy of the teacher's full distribution in nats.
    `sequence_slopes` fp32 [T]: derivative of a sequence loss with respect to the sampled token's log-probability; with it,
    `token_coefficients` fp32 [T]: the coefficients of the token losses (see `training.losses.combined.WithSequenceLoss`).
    `term_weights` fp32 [T, n]: the factors of the n terms that have token weights of their own (see
    `training.losses.combined.OnSomeTokens`).
    `teacher_factors` fp32 [T, n]: the factors of the losses against n teachers; with it the fields of
    `training.losses.by_teacher` have the shape [T, n, ...] (see `training.losses.mixture`).
    """

    sampled_ids: Tensor
    teacher_logprobs: Tensor | None = None
    teacher_ids: Tensor | None = None
    teacher_states: Tensor | None = None
    rollout_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None
    old_logprobs: Tensor | None = None
    advantages: Tensor | None = None
    teacher_sampled_logprobs: Tensor | None = None
    teacher_entropy: Tensor | None = None
    sequence_slopes: Tensor | None = None
    token_coefficients: Tensor | None = None
    term_weights: Tensor | None = None
    teacher_factors: Tensor | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != len(self.sampled_ids):
                raise ValueError(f"{field.name} has {len(value)} rows for {len(self.sampled_ids)} positions")
        ids, logprobs = self.teacher_ids, self.teacher_logprobs
        if ids is not None and (logprobs is None or ids.shape != logprobs.shape):
            raise ValueError("teacher_ids need teacher_logprobs of the same shape")

    def __len__(self) -> int:
        return len(self.sampled_ids)

    def rows(self, index: Tensor | slice) -> LossInputs:
        """Return the positions at `index`, int64 [n] or a slice."""
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> LossInputs:
        """Return the positions with all tensors on `device`."""
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> LossInputs:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: function(value) for name, value in values.items() if value is not None})


def rows_at_a_time(logits: Tensor) -> int:
    """Return the number of rows of logits [T, V] to process at once: temporaries stay in the CPU cache, and GPUs need few kernel
    launches."""
    return 128 if logits.device.type == "cuda" else max(16, 2**18 // logits.shape[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOutputs:
    """The loss outputs: `losses` [T] in nats, and detached `diagnostics` [T] of the same pass for the metrics."""

    losses: Tensor
    diagnostics: dict[str, Tensor]

    @staticmethod
    def joined(parts: Sequence[LossOutputs]) -> LossOutputs:
        """Concatenate the values of consecutive blocks of positions, at least one."""
        names = parts[0].diagnostics
        return LossOutputs(
            losses=torch.cat([part.losses for part in parts]),
            diagnostics={name: torch.cat([part.diagnostics[name] for part in parts]) for name in names},
        )


class TokenLoss(Protocol):
    """Logits fp32 [T, V] and their T positions -> differentiable losses [T], each a function of its own row only."""

    def __call__(self, logits: Tensor, inputs: LossInputs, /) -> LossOutputs: ...


@runtime_checkable
class AnalyticTokenLoss(TokenLoss, Protocol):
    """A token loss that also computes its own gradient, so that no autograd graph is needed."""

    def gradient_(self, logits: Tensor, inputs: LossInputs, coefficients: Tensor, /) -> LossOutputs:
        """Overwrite `logits` [T, V] with their gradient, times `coefficients` [T]; return the values of a call, detached."""
        ...


def in_blocks(
    gradient_: Callable[[Tensor, LossInputs, Tensor], LossOutputs],
    logits: Tensor,
    inputs: LossInputs,
    coefficients: Tensor,
) -> LossOutputs:
    """Apply a `gradient_` whose temporaries are [rows, V] to a few rows at a time."""
    parts, step = [], rows_at_a_time(logits)
    for start in range(0, max(len(logits), 1), step):
        block = slice(start, start + step)
        parts.append(gradient_(logits[block], inputs.rows(block), coefficients[block]))
    return LossOutputs.joined(parts)


def softmax_and_logsumexp(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmax [T, V] and the logsumexp [T], with fewer passes over [T, V] than one function each."""
    softmax = logits.softmax(-1)
    return softmax, logits.amax(-1) - softmax.amax(-1).log()


class TokenWeight(Protocol):
    """Lengths [S] of some sequences and their T positions -> a factor [T] for the tokens' coefficients."""

    def __call__(self, lengths: Tensor, inputs: LossInputs, /) -> Tensor: ...


def unit_token_weight(lengths: Tensor, inputs: LossInputs) -> Tensor:
    """Return 1 for every position."""
    return torch.ones(len(inputs), dtype=torch.float64, device=lengths.device)
