"""What an objective is made of: what it needs, and how a response token, a response and a prompt count.

A loop reads `Objective.needs` and calls the parts; it never asks for a name. The loss of one update is sum_t c_t l_t over
all response positions t: l_t comes from the token loss, c_t from the prompt weight, the token weight and the reduction.
A loss that is not a sum over tokens (a preference loss on whole sequences, say) fits as well: a pass without gradient gives
the derivative with regard to each log-probability, which then is a factor that a field of `Positions` carries.

Shapes: S sequences, T response positions, V vocabulary, k entries of the teacher's distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from tasks.core.errors import UserError
from training.objectives.prompt_weights import PromptWeight
from training.objectives.reductions import Reduction, Totals, check_sequences, expand


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the loop must provide.

    `rollouts`: responses of the student, or those in the dataset. `teacher`: nothing, the log-probability of each sampled
    token, its `top_k` most probable tokens, or its full distribution. `reward`: verified answers. `reference_model`: the
    student as it was at the start. `privileged`: the teacher's prompt shows the reference solution.
    """

    rollouts: Literal["student", "dataset"] = "student"
    teacher: Literal["none", "sampled", "topk", "full"] = "none"
    top_k: int | None = None
    reward: bool = False
    reference_model: bool = False
    privileged: bool = False

    def __post_init__(self) -> None:
        if (self.teacher == "topk") != (self.top_k is not None):
            raise UserError(
                f"top_k is {self.top_k} with teacher {self.teacher!r}: 'topk' needs a k, others have none"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}: give at least 1, or ask for the full distribution")
        if self.privileged and self.teacher == "none":
            raise UserError(
                "a privileged prompt needs a teacher that reads it: choose one, or drop 'privileged'"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """T response positions of some sequences, one response after the other. Every field is None or has T as first length.

    `sampled_ids` int [T]: the token that follows. `teacher_logprobs` fp32 [T, k]: by the teacher's full softmax over the
    shared vocabulary at temperature 1; -inf pads. `teacher_ids` int [T, k]: their tokens, each at most once in a row; what
    is outside the student's vocabulary counts as padding. None: column j is token j, up to the full vocabulary.
    `teacher_states` [T, H]: the teacher's last hidden states, which stand for its full distribution, see
    `training.objectives.teacher_states`.
    `rollout_logprobs` fp32 [T]: of the sampled tokens, by the engine that sampled them. `reference_logprobs` fp32 [T]: of the
    same, by the student as it was at the start, over the shared vocabulary.
    """

    sampled_ids: Tensor
    teacher_logprobs: Tensor | None = None
    teacher_ids: Tensor | None = None
    teacher_states: Tensor | None = None
    rollout_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None

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

    def rows(self, index: Tensor | slice) -> Positions:
        """The positions at `index`, int64 [n] or a slice."""
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> Positions:
        """The same positions with all tensors on `device`."""
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Positions:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: function(value) for name, value in values.items() if value is not None})


ROWS_AT_A_TIME = {"cpu": 16, "cuda": 128}
"""Rows of [rows, V] that work on logits takes at once: temporaries that stay in a CPU's cache, few GPU launches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenValues:
    """`losses` [T] in nats, and detached figures [T] of the same pass that are worth a line in the log."""

    losses: Tensor
    diagnostics: dict[str, Tensor]

    @staticmethod
    def joined(parts: Sequence[TokenValues]) -> TokenValues:
        """The values of consecutive blocks of positions as those of all of them; needs at least one block."""
        names = parts[0].diagnostics
        return TokenValues(
            losses=torch.cat([part.losses for part in parts]),
            diagnostics={name: torch.cat([part.diagnostics[name] for part in parts]) for name in names},
        )


class TokenLoss(Protocol):
    """Logits fp32 [T, V] and the T positions they belong to -> losses that autograd can follow. One row, one position."""

    def __call__(self, logits: Tensor, positions: Positions, /) -> TokenValues: ...


@runtime_checkable
class AnalyticTokenLoss(TokenLoss, Protocol):
    """A token loss that also writes its own gradient, so that no graph is needed."""

    def gradient_(self, logits: Tensor, positions: Positions, coefficients: Tensor, /) -> TokenValues:
        """Overwrites `logits` [T, V] with coefficients [T] times the losses' gradient and gives what a call gives, detached."""
        ...


def in_blocks(
    gradient_: Callable[[Tensor, Positions, Tensor], TokenValues],
    logits: Tensor,
    positions: Positions,
    coefficients: Tensor,
) -> TokenValues:
    """A `gradient_` applied to a few rows at a time, for one whose temporaries are [rows, V]."""
    parts, step = [], ROWS_AT_A_TIME[logits.device.type]
    for start in range(0, max(len(logits), 1), step):
        block = slice(start, start + step)
        parts.append(gradient_(logits[block], positions.rows(block), coefficients[block]))
    return TokenValues.joined(parts)


class TokenWeight(Protocol):
    """Lengths [S] of some sequences and their T positions -> a factor [T] for each token's coefficient."""

    def __call__(self, lengths: Tensor, positions: Positions, /) -> Tensor: ...


def unit_token_weight(lengths: Tensor, positions: Positions) -> Tensor:
    """1 for every position."""
    return torch.ones(len(positions), dtype=torch.float64, device=lengths.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A distillation objective as a composition; an ablation is `dataclasses.replace` of one part."""

    needs: Needs
    token_loss: TokenLoss
    prompt_weight: PromptWeight
    reduction: Reduction
    token_weight: TokenWeight = unit_token_weight

    def coefficients(self, weights: Tensor, lengths: Tensor, positions: Positions, totals: Totals) -> Tensor:
        """c_t as float64 [T] for S sequences with prompt weights [S] and response lengths [S] that sum to T.

        `totals` counts the whole update. ValueError, naming the sequence, for bad weights and lengths.
        """
        check_sequences(weights, lengths)
        if int(lengths.sum()) != len(positions):
            raise ValueError(f"the lengths sum to {int(lengths.sum())} for {len(positions)} positions")
        per_token = expand(self.reduction(weights, lengths, totals), lengths)
        return per_token * self.token_weight(lengths, positions)
