"""The plan of a run: what its algorithm needs, derived once from the algorithm and the run's settings.

Preflight, memory plan, workers, rollout batches, loss inputs, metrics, self-tests and the export read the plan; none of them
depends on an algorithm's name. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from tasks.errors import UserError
from training.algorithms import load_algorithm, rollout_weights, token_weights
from training.algorithms.base import Algorithm, Scorer, Term, TokenWeight, View
from training.algorithms.losses import GeneralisedJSD, ReferenceKL, TopKCrossEntropy, build_loss
from training.algorithms.rollout_weights import answer_share
from training.algorithms.token_weights import SCHEDULES, PositionWeight
from training.config import AlgorithmSettings, BinaryWeight, PlainWeight, RunConfig, TeacherSettings
from training.losses.prompt_weights import (
    Binary,
    Constant,
    PassRate,
    Permuted,
    PromptWeight,
    Soft,
    Uniform,
)
from training.losses.reductions import per_sequence_mean, token_mean
from training.scorers.scores import ScoreRequest

if TYPE_CHECKING:
    from training.losses.base import TokenLoss

__all__ = ["Frozen", "RunPlan", "ScoringPass", "resolve"]

_REDUCTIONS = {"sequence_mean": per_sequence_mean, "token_mean": token_mean}

_TEACHER_INPUTS = {
    "sampled": "teacher_sampled_logprobs", "top_k": "teacher_logprobs", "full": "teacher_logprobs", "entropy": "teacher_entropy",
}  # fmt: skip

EVALUATION_TOP_K = 512
"""Number of the teacher's most probable tokens at which an evaluation compares it with the student, as many as CORE distils from:
12 bytes each for every token of a micro-batch, where the whole vocabulary would need gigabytes."""

Frozen = Literal["teacher", "reference"]
"""What a frozen model is: the checkpoint `teacher.model` or one of those in `teachers`, or the initial student."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPass:
    """One forward pass of a frozen model over rollouts in one prompt view, and the roles that its outputs have in the loss. With
    several teachers, each teacher does the pass over the rollouts for the prompts that it teaches."""

    worker: Frozen
    view: View
    request: ScoreRequest
    scorers: tuple[Scorer, ...]

    @property
    def full(self) -> bool:
        """Whether the loss needs the model's full distribution."""
        return any("full" in scorer.outputs for scorer in self.scorers)


@dataclass(frozen=True)
class RunPlan:
    """What a run of an algorithm needs. `algorithm` has the parts that the run's settings change."""

    run: RunConfig
    algorithm: Algorithm

    @cached_property
    def passes(self) -> tuple[ScoringPass, ...]:
        """The forward passes of the frozen models, the teacher's first."""
        together: dict[tuple[Frozen, View], list[Scorer]] = {}
        for scorer in sorted(self.algorithm.scorers, key=lambda one: one.role != "teacher"):
            together.setdefault((_worker(scorer), scorer.view), []).append(scorer)
        return tuple(_scoring_pass(self.run, *key, scorers) for key, scorers in together.items())

    @property
    def has_teacher(self) -> bool:
        """Whether the algorithm has a teacher: `teacher.model`, or several in `teachers`."""
        return self.generates or any(one.worker == "teacher" for one in self.passes)

    @property
    def generates(self) -> bool:
        """Whether an engine with the teacher's weights generates responses."""
        return self.algorithm.generated > 0

    @property
    def teachers(self) -> tuple[TeacherSettings, ...]:
        """The settings of the run's teachers: none if the algorithm has none, one, or several that prompts are routed to."""
        if not self.has_teacher:
            return ()
        return self.run.teachers or (() if self.run.teacher is None else (self.run.teacher,))

    @property
    def scoring_teachers(self) -> tuple[TeacherSettings, ...]:
        """The settings of the teachers that score rollouts."""
        return self.teachers if any(one.worker == "teacher" for one in self.passes) else ()

    def evaluation_pass(self, vocabulary: int) -> ScoringPass | None:
        """Return the teacher's pass over responses to held-out problems, with the student's own prompt whatever view the
        algorithm has, for models that share that many ids. None without evaluations, without exactly one teacher that scores
        rollouts in process, and with colocated engines, which have the student's memory."""
        in_process = [one.backend == "in_process" for one in self.scoring_teachers]
        if self.run.evaluation is None or in_process != [True] or self.run.placement.kind == "colocated":
            return None
        request = ScoreRequest(top_k=min(EVALUATION_TOP_K, vocabulary), entropy=True)
        return ScoringPass(worker="teacher", view="plain", request=request, scorers=())

    @property
    def has_plain_reference(self) -> bool:
        """Whether the reference gives log-probabilities of the rollouts."""
        return any(scorer.role == "reference" for scorer in self.algorithm.scorers)

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """The names of the teachers' workers and of the sections of their settings."""
        if not self.run.teachers:
            return ("teacher",) * len(self.teachers)
        return tuple(f"teachers.{one.name}" for one in self.run.teachers) if self.has_teacher else ()

    @property
    def is_routed(self) -> bool:
        """Whether the run has several teachers."""
        return len(self.teachers) > 1

    @property
    def mixes(self) -> bool:
        """Whether a prompt may be taught by several teachers at once."""
        routing = self.run.routing
        return self.is_routed and routing is not None and routing.kind == "weighted"

    @property
    def has_reference(self) -> bool:
        """Whether a worker has a copy of the initial student."""
        return any(one.worker == "reference" for one in self.passes)

    @property
    def from_states(self) -> Frozen | None:
        """The worker whose hidden states the student's loss turns into a full distribution, or None."""
        return next((one.worker for one in self.passes if one.request.states), None)

    @property
    def top_k(self) -> int | None:
        """The k of the teacher's most probable tokens, None if the loss uses none."""
        return next((one.top_k for one in self.algorithm.scorers if one.top_k is not None), None)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the loss inputs that a rollout batch gives, besides the sampled tokens."""
        found = ["rollout_logprobs"] if self.samples else []
        found += ["advantages"] if self.algorithm.advantages is not None else []
        for scorer in self.algorithm.scorers:
            if scorer.role == "reference":
                found.append("reference_logprobs")
            else:
                found += [_TEACHER_INPUTS[output] for output in scorer.outputs]
        return tuple(dict.fromkeys(found))

    def token_loss(self) -> TokenLoss:
        """Return the torch code of the loss."""
        has_sequence_loss = self.algorithm.sequence_loss is not None
        return build_loss(self.algorithm.loss, has_sequence_loss=has_sequence_loss, mixed=self.mixes)

    @property
    def views(self) -> tuple[View, ...]:
        """The prompt views besides the student's own."""
        return tuple(dict.fromkeys(one.view for one in self.passes if one.view != "plain"))

    @property
    def needs_labels(self) -> bool:
        """Whether every prompt needs an answer."""
        return self.algorithm.reward or any(view.startswith("answer") for view in self.views)

    @property
    def needs_solutions(self) -> bool:
        """Whether every prompt needs a solution."""
        return any(view.startswith("solution") for view in self.views)

    def identity(self) -> dict[str, Any]:
        """Return the settings that change the result, without those of the dataset that are not used, and the algorithm's
        version."""
        found = self.run.identity()
        unused = {
            "labels": not self.needs_labels,
            "solutions": not (self.needs_solutions or self.algorithm.demonstrations),
            "without": not (self.needs_labels or self.needs_solutions),
            "samples": self.run.dataset.samples is None,
        }
        kept = {name: value for name, value in found["dataset"].items() if not unused.get(name)}
        return {**found, "dataset": kept, "algorithm_version": self.algorithm.version}

    @property
    def grades(self) -> bool:
        """Whether the answers of rollouts are compared with others."""
        return self.algorithm.reward or self.algorithm.answer_shares

    @property
    def samples(self) -> bool:
        """Whether the student generates rollouts; otherwise they are the dataset's responses."""
        return self.algorithm.rollouts == "student"

    @property
    def in_groups(self) -> bool:
        """Whether a group of rollouts must be trained on as a whole, because advantages compare its rewards."""
        return self.algorithm.advantages is not None

    @property
    def student_outputs(self) -> frozenset[str]:
        """What the student returns about the rollouts of a batch before its first update."""
        corrected = self.samples and self.run.algorithm.importance_correction != "none"
        return frozenset(self.algorithm.student_outputs) | ({"sampled"} if corrected else set())

    @property
    def weighted_terms(self) -> tuple[TokenWeight, ...]:
        """The token weights of the loss terms that have some of their own."""
        weights = (term.token_weight for term in self.algorithm.loss)
        return tuple(weight for weight in weights if weight is not None)

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps per rollout batch."""
        return self.algorithm.updates_per_batch


def resolve(run: RunConfig) -> RunPlan:
    """Return the plan of a run. Raises `UserError` for an unknown algorithm or settings that it does not have."""
    settings = run.algorithm
    algorithm = load_algorithm(settings.name, settings.options)
    _check_importance(algorithm, settings)
    algorithm = _with_top_k(algorithm, settings)
    algorithm = _with_loss(algorithm, settings)
    algorithm = _with_reference_kl(algorithm, settings.reference_kl_coefficient)
    if settings.prompt_weight is not None:
        algorithm = replace(algorithm, prompt_weight=chosen_weight(settings.prompt_weight, run.seed))
    if settings.rollout_weight is not None:
        algorithm = _with_answer_shares(algorithm)
    if settings.position_schedule is not None:
        algorithm = _with_schedule(algorithm, settings.position_schedule)
    if settings.reduction is not None:
        algorithm = replace(algorithm, reduction=_REDUCTIONS[settings.reduction])
    if settings.updates_per_batch is not None:
        algorithm = replace(algorithm, updates_per_batch=settings.updates_per_batch)
    return RunPlan(run=run, algorithm=algorithm)


def chosen_weight(chosen: PlainWeight | BinaryWeight, seed: int) -> PromptWeight:
    """Return the prompt weight of a setting."""
    if isinstance(chosen, BinaryWeight):
        return Binary(tau=chosen.tau, scale=chosen.scale)
    if chosen.kind == "permuted":
        return Permuted(seed=seed)
    simple: dict[str, type[Uniform | Soft | PassRate | Constant]] = {
        "uniform": Uniform, "soft": Soft, "pass_rate": PassRate, "constant": Constant,
    }  # fmt: skip
    return simple[chosen.kind]()


# --- parts that settings change ----------------------------------------------------------------------------------


def _check_importance(algorithm: Algorithm, settings: AlgorithmSettings) -> None:
    """Raise `UserError` if the settings correct advantages that the algorithm does not have."""
    if settings.importance_correction != "none" and algorithm.advantages is None:
        raise UserError(
            f"algorithm.importance_correction is set, but {settings.name} has no advantages that it corrects: remove it"
        )


def _with_top_k(algorithm: Algorithm, settings: AlgorithmSettings) -> Algorithm:
    """Return the algorithm with another k, or the full distribution, of the teacher whose top k its loss uses."""
    if settings.top_k is None:
        return algorithm
    if not any("top_k" in scorer.outputs for scorer in algorithm.scorers):
        raise UserError(
            f"algorithm.top_k is set, but {settings.name} does not use a teacher's top k: remove it"
        )
    return replace(
        algorithm, scorers=tuple(_scorer_with(scorer, settings.top_k) for scorer in algorithm.scorers)
    )


def _scorer_with(scorer: Scorer, top_k: int | Literal["full"]) -> Scorer:
    if "top_k" not in scorer.outputs:
        return scorer
    if top_k == "full":
        outputs = tuple("full" if output == "top_k" else output for output in scorer.outputs)
        return replace(scorer, outputs=outputs, top_k=None)
    return replace(scorer, top_k=top_k)


def _with_loss(algorithm: Algorithm, settings: AlgorithmSettings) -> Algorithm:
    """Return the algorithm with the form, the divergence or the temperature of the settings in its distillation loss."""
    changed = {
        "top_k_form": settings.top_k_form is not None,
        "divergence_beta": settings.divergence_beta is not None,
        "temperature": settings.temperature is not None,
    }
    named = [name for name, is_set in changed.items() if is_set]
    if not named:
        return algorithm
    terms = list(algorithm.loss)
    for place, term in enumerate(terms):
        if isinstance(term.loss, TopKCrossEntropy | GeneralisedJSD):
            terms[place] = replace(term, loss=_changed_loss(term.loss, algorithm, settings))
            return replace(algorithm, loss=tuple(terms))
    raise UserError(f"algorithm.{named[0]} is set, but {settings.name} has no distillation loss: remove it")


def _changed_loss(
    loss: TopKCrossEntropy | GeneralisedJSD, algorithm: Algorithm, settings: AlgorithmSettings
) -> TopKCrossEntropy | GeneralisedJSD:
    """Return a distillation loss with the form, the divergence and the temperature of the settings."""
    temperature = loss.temperature if settings.temperature is None else settings.temperature
    if settings.top_k_form is not None:
        if not isinstance(loss, TopKCrossEntropy):
            raise UserError(
                f"algorithm.top_k_form is set, but {settings.name} has no top-k cross-entropy: remove it"
            )
        loss = replace(loss, form=settings.top_k_form)
    if settings.divergence_beta is not None:
        top_k = next((one.top_k for one in algorithm.scorers if one.top_k is not None), None)
        if top_k is not None:
            raise UserError(
                f'algorithm.divergence_beta needs the full distribution, but top_k is {top_k}: set algorithm.top_k to "full", or'
                " remove divergence_beta"
            )
        loss = GeneralisedJSD(beta=settings.divergence_beta)
    return replace(loss, temperature=temperature)


def _with_reference_kl(algorithm: Algorithm, coefficient: float | None) -> Algorithm:
    """Return the algorithm with a KL penalty of this coefficient towards the initial student; with 0 without one."""
    if coefficient is None:
        return algorithm
    scorers = algorithm.scorers
    if algorithm.sequence_loss is None:  # else that may compare with the reference, too
        scorers = tuple(one for one in scorers if one.role != "reference")
    terms = tuple(one for one in algorithm.loss if not isinstance(one.loss, ReferenceKL))
    if coefficient:
        if not any(one.role == "reference" for one in scorers):
            scorers = (*scorers, Scorer(role="reference"))
        terms = (*terms, Term(loss=ReferenceKL(), weight=coefficient))
    return replace(algorithm, scorers=scorers, loss=terms)


def _with_answer_shares(algorithm: Algorithm) -> Algorithm:
    """Return the algorithm with each rollout also weighted by the teacher's probability of its answer."""
    own, weight = algorithm.rollout_weight, answer_share
    if own is not None:
        weight = rollout_weights.Product(first=own, second=answer_share)
    return replace(algorithm, rollout_weight=weight, answer_shares=True)


def _with_schedule(algorithm: Algorithm, name: str) -> Algorithm:
    """Return the algorithm with the position weights of that name, or without any. Other token weights of its own stay."""
    own, schedule = algorithm.token_weight, None if name == "uniform" else SCHEDULES[name]
    if own is None or isinstance(own, PositionWeight):
        return replace(algorithm, token_weight=schedule)
    both = own if schedule is None else token_weights.Product(first=own, second=schedule)
    return replace(algorithm, token_weight=both)


# --- scoring passes ----------------------------------------------------------------------------------------------


def _worker(scorer: Scorer) -> Frozen:
    return "teacher" if scorer.role == "teacher" else "reference"


def _scoring_pass(run: RunConfig, worker: Frozen, view: View, scorers: list[Scorer]) -> ScoringPass:
    """Return the pass that gives all outputs of these scorers. The full distribution is sent as hidden states if one model has
    the head for them and gives them, else as all log-probabilities."""
    outputs = {output for scorer in scorers for output in scorer.outputs}
    own = run.teacher is None or run.teacher.backend == "in_process"
    by_states = worker == "reference" or (own and not run.teachers)
    request = ScoreRequest(
        sampled="sampled" in outputs,
        top_k=next((one.top_k for one in scorers if one.top_k is not None), None),
        states="full" in outputs and by_states,
        whole="full" in outputs and not by_states,
        entropy="entropy" in outputs,
    )
    return ScoringPass(worker=worker, view=view, request=request, scorers=tuple(scorers))
