"""The parts of an objective: its needs, token loss, prompt weight, token weight and reduction.

The training loop reads `Objective.needs` and calls the parts, independent of the objective's name. The loss of one update is
sum_t c_t l_t over all response positions t: l_t comes from the token loss, c_t from the prompt weight, the token weight and
the reduction. A loss that is not a sum over tokens (a preference loss on whole sequences, for example) also fits: a forward pass
without gradient gives its derivative with respect to each log-probability, which then becomes a factor in a field of
`LossInputs`.

Shapes: S sequences, T response positions, V vocabulary, k entries of the teacher's distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tasks.errors import UserError
from training.losses.base import LossInputs, TokenLoss, TokenWeight, unit_token_weight
from training.losses.prompt_weights import PromptWeight
from training.losses.reductions import Reduction, Totals, check_sequences, expand


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The inputs that the training loop must provide.

    `rollouts`: responses of the student, or those in the dataset. `teacher`: nothing, the log-probability of each sampled
    token, the teacher's `top_k` most probable tokens, or its full distribution. `reward`: verified answers. `reference_model`:
    log-probabilities of the initial student. `privileged`: the teacher's prompt includes the reference solution.
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
                f"top_k is {self.top_k} with teacher {self.teacher!r}: set top_k if and only if teacher is 'topk'"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}: give at least 1, or choose the full distribution")
        if self.privileged and self.teacher == "none":
            raise UserError("a privileged prompt needs a teacher: set teacher, or remove 'privileged'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A distillation objective as a composition; an ablation is `dataclasses.replace` of one part."""

    needs: Needs
    token_loss: TokenLoss
    prompt_weight: PromptWeight
    reduction: Reduction
    token_weight: TokenWeight = unit_token_weight

    def coefficients(self, weights: Tensor, lengths: Tensor, inputs: LossInputs, totals: Totals) -> Tensor:
        """Return c_t, float64 [T], for S sequences with prompt weights [S] and response lengths [S] that sum to T.

        `totals` are the counts of the whole update. Raises `ValueError`, naming the sequence, for invalid weights or lengths.
        """
        shares, counts = weights.numpy(), lengths.numpy()
        check_sequences(shares, counts)
        if int(lengths.sum()) != len(inputs):
            raise ValueError(f"the lengths sum to {int(lengths.sum())} instead of {len(inputs)} positions")
        per_token = expand(self.reduction(shares, counts, totals), counts)
        return torch.from_numpy(per_token) * self.token_weight(lengths, inputs)
