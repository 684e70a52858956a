"""The parts of an algorithm, without torch: what it needs, its loss, its weights and its paper's settings.

The training stage reads nothing but an `Algorithm` (through `training.plan`): it does not depend on an algorithm's name. The loss
of one update is sum_t c_t l_t over all response tokens t of the update: l_t comes from the loss terms, c_t from the prompt
weight, the token weight and the reduction.

Shapes: S sequences (rollouts), T response tokens, V vocabulary, k entries of a teacher's distribution. A group is the rollouts
of one drawn prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.errors import UserError
from training.losses.prompt_weights import PromptWeight, Uniform
from training.losses.reductions import Reduction, per_sequence_mean

if TYPE_CHECKING:
    from training.losses.base import TokenLoss

__all__ = [
    "Advantages",
    "Algorithm",
    "Columns",
    "Floats",
    "Loss",
    "Output",
    "Role",
    "RolloutWeight",
    "Scorer",
    "SequenceLoss",
    "SequenceOutputs",
    "Sequences",
    "Source",
    "Term",
    "TokenWeight",
    "View",
]

Floats = NDArray[np.float64]

Role = Literal["teacher", "reference", "start"]
"""`teacher`: the checkpoint `teacher.model`. `start`: the initial student, frozen, as the teacher. `reference`: the same model,
whose log-probabilities the student is kept close to."""
View = Literal["plain", "answer", "solution", "answer_in_system", "solution_in_system"]
"""The prompt that a model sees: the student's own, or one that also contains the answer or a solution, in the message of the user
or of the system."""
Output = Literal["sampled", "top_k", "full", "entropy"]
"""What a scorer returns for every response token: the log-probability of the token, the k most probable tokens, the whole
distribution, the entropy of the whole distribution."""
Source = Literal["rollout", "solution", "teacher"]
"""Where a sequence comes from: the student, the dataset's own solution, or a right response of the teacher in the dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A frozen model that scores rollouts. Its outputs become the loss inputs `reference_logprobs` (role reference) or
    `teacher_*` (the others). All outputs of one model and view come from one forward pass."""

    role: Role
    view: View = "plain"
    outputs: tuple[Output, ...] = ("sampled",)
    top_k: int | None = None

    def __post_init__(self) -> None:
        if ("top_k" in self.outputs) != (self.top_k is not None):
            raise UserError(
                f"top_k is {self.top_k} with outputs {', '.join(self.outputs)}: set top_k if and only if 'top_k' is an output"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}: give at least 1, or choose the full distribution")
        if not self.outputs or {"top_k", "full"} <= set(self.outputs):
            raise UserError(
                f"a scorer has the outputs {', '.join(self.outputs) or 'none'}: give at least one, and not both 'top_k' and"
                " 'full'"
            )
        if self.role == "reference" and (self.outputs != ("sampled",) or self.view != "plain"):
            raise UserError(
                "a reference has the plain prompt and returns 'sampled' only: choose role 'start'"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What is known of some rollouts, in whole groups, before they are trained on.

    `lengths` int64 [S]: their response tokens. `groups` int64 [S]: the number of each rollout's group. `rewards` float64 [S]:
    None without verified answers. `answer_shares` float64 [S]: the teacher's probability of the cluster that the answer of a
    rollout falls in, None unless the algorithm asks for it. `seeds` uint64 [S]: a number that belongs to each rollout alone.
    `step`: the number of the rollout batch, from 0. `values`: arrays [T] by the names of `training.losses.base.LossInputs`, such
    as `rollout_logprobs` and `teacher_entropy`, and `student_entropy`.
    """

    lengths: NDArray[np.int64]
    groups: NDArray[np.int64]
    rewards: Floats | None = None
    answer_shares: Floats | None = None
    seeds: NDArray[np.uint64] | None = None
    step: int = 0
    values: Mapping[str, np.ndarray] = field(default_factory=dict)


Advantages = Callable[[Columns], Floats]
"""Rollouts -> advantages float64 [T], signed."""
TokenWeight = Callable[[Columns], Floats]
"""Rollouts -> factors float64 [T] of the tokens' coefficients."""
RolloutWeight = Callable[[Columns], Floats]
"""Rollouts -> factors float64 [S] of the coefficients of all their tokens, at least 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """The sequences of one optimizer step: its rollouts, and the demonstrations of their prompts. `logprobs` float64 [S]: sums of
    the student's log-probabilities under the weights before the step. `reference` float64 [S]: those of the reference; None
    without one. `groups`, `lengths` and `rewards`: as in `Columns`; the reward of a demonstration is 1. `sources` [S]; None: all
    are rollouts. `weights` float64 [S]: the prompt weights; None: 1."""

    logprobs: Floats
    groups: NDArray[np.int64]
    lengths: NDArray[np.int64]
    reference: Floats | None = None
    rewards: Floats | None = None
    sources: tuple[Source, ...] | None = None
    weights: Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOutputs:
    """The value of a sequence loss, its derivatives `slopes` float64 [S] with respect to `Sequences.logprobs`, and numbers for
    the metrics by name."""

    loss: float
    slopes: Floats
    diagnostics: Mapping[str, float] = field(default_factory=dict)


class SequenceLoss(Protocol):
    """Sequences -> a loss that is not a sum over tokens, such as a preference between two sequences. Its derivatives are
    constants of the backward pass, which is therefore exact, however the update is split."""

    @property
    def needs(self) -> frozenset[Literal["rewards", "reference"]]:
        """The optional fields of `Sequences` that it cannot do without."""
        ...

    def __call__(self, sequences: Sequences, /) -> SequenceOutputs: ...


class Loss(Protocol):
    """A token loss by its settings: a frozen dataclass without torch."""

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `training.losses.base.LossInputs` that it reads besides `sampled_ids`."""
        ...

    def build(self) -> TokenLoss:
        """Return its torch code."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A loss and its factor in the sum. `token_weight`: a factor of every token in this term alone; the loss is not computed
    where it is 0."""

    loss: Loss
    weight: float = 1.0
    token_weight: TokenWeight | None = None


_UNIFORM = Uniform()


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """A method of distillation or of reinforcement learning, as a composition; an ablation is `dataclasses.replace` of one part.

    `loss`: the terms of the token loss; may be empty with a `sequence_loss`, which is added as it is, without reduction, rollout
    and token weights. `rollouts`: responses of the student, or those in the dataset. `demonstrations`: whether the sequence loss
    also gets a response for each prompt, its solution (see `training.data.references`), where there is one. `generated`: the
    number of new responses of the teacher to a prompt that has neither a right rollout nor a solution of the dataset's own, of
    which the sequence loss gets the first right one in place of the dataset's responses. `scorers`: the frozen
    models. `student_outputs`: what the student itself returns about the rollouts before the first update of their batch, as
    `old_logprobs` and `student_entropy`. `reward`, `answer_shares`: whether answers are verified, or looked up among the
    teacher's clusters. `advantages`: the loss input of that name. `whole_updates`: whether the weights of tokens and rollouts
    compare all rollouts of an optimizer step, or the reduction divides by the sums of these weights. `updates_per_batch`:
    mini-batches of a rollout batch. `defaults`: settings of a run (as in RUN.json) where the paper differs from the defaults of
    `training.config`. `source` names paper and equations; `deviations` are sentences on what differs from it. `version`: raise
    it when the code changes what the same settings train; a run with another version is another run.
    """

    summary: str
    formula: str
    source: str
    loss: tuple[Term, ...] = ()
    sequence_loss: SequenceLoss | None = None
    rollouts: Literal["student", "dataset"] = "student"
    demonstrations: bool = False
    generated: int = 0
    scorers: tuple[Scorer, ...] = ()
    student_outputs: tuple[Literal["sampled", "entropy"], ...] = ()
    reward: bool = False
    answer_shares: bool = False
    advantages: Advantages | None = None
    prompt_weight: PromptWeight = _UNIFORM
    rollout_weight: RolloutWeight | None = None
    token_weight: TokenWeight | None = None
    reduction: Reduction = per_sequence_mean
    whole_updates: bool = False
    updates_per_batch: int = 1
    defaults: Mapping[str, Any] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    version: int = 1
