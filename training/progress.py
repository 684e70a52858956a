"""A run in progress: its state after a number of steps, what is saved of it, its evaluations, and the student to export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError
from training.config import EvaluationSettings
from training.console import log_line
from training.data.batches import TokenSequence
from training.evaluation.held_out import HeldOut
from training.evaluation.history import Evaluation, Grades, best_of, is_due, out_of_patience, step_values
from training.evaluation.stored import result_folder, stored_or_new
from training.evaluation.student import Student, evaluate
from training.preflight.check import Prepared
from training.preflight.sampling import evaluation_sampling
from training.rollouts.engine import Generation
from training.rollouts.saved import read_generations
from training.rollouts.sequences import sequence
from training.stopping import Ending, Spent, ended_by
from training.student.checkpoints import damage, latest, read_record, step_folder
from training.teacher_divergence import high_entropy_divergence
from training.worker_set import Workers

__all__ = ["CompletedStep", "RunState", "TrainingRun"]

CHECKPOINTS = "checkpoints"
HIGH_ENTROPY = 1.0
"""The student's entropy in nats from which a token counts as one of high entropy, as in EOPD's shares of such tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedStep:
    """A step that was trained and synced: the number of completed steps, its metrics, the checksum of the weights after it, its
    table of sample rollouts, if one is due, and the rollouts of the next step, if they exist already."""

    step: int
    metrics: Mapping[str, float]
    weights: str
    samples: Sequence[Mapping[str, Any]] = ()
    upcoming: Sequence[Generation] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run after `step` steps: the checksum of its weights, its evaluations so far, in order, and what ended it."""

    step: int = 0
    weights: str = ""
    evaluations: tuple[Evaluation, ...] = ()
    ended: Ending | None = None

    def evaluation(self, step: int) -> Evaluation | None:
        """Return the evaluation after a step, if there is one."""
        return next((one for one in self.evaluations if one.step == step), None)

    @property
    def metrics(self) -> dict[str, float]:
        """The evaluation after the last step as metrics; empty without one."""
        last = self.evaluation(self.step)
        return {} if last is None else step_values(last)

    def record(self) -> dict[str, Any]:
        """Return what a checkpoint of the state records, besides its step."""
        return {"evaluations": [one.to_json() for one in self.evaluations], "ended": self.ended}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """The workers, the checked settings and the folder of a run."""

    workers: Workers
    prepared: Prepared
    folder: Path

    @property
    def evaluation(self) -> EvaluationSettings | None:
        """The settings of the evaluation."""
        return self.prepared.run.evaluation

    def resume(self) -> tuple[RunState, tuple[Generation, ...]]:
        """Load the last checkpoint, if there is one, and send the weights to the engines. Return the state, and the rollouts of
        the next step that the checkpoint contains.

        Raises `UserError` if the checkpoint belongs to a run with another fingerprint.
        """
        state, saved = RunState(), ()
        checkpoint = latest(self.folder / CHECKPOINTS, log_line)
        if checkpoint is not None:
            record = read_record(checkpoint)
            if record.get("fingerprint") != self.prepared.fingerprint:
                raise UserError(
                    f"{self.folder} contains checkpoints of a run with other settings, data or models: delete it, or choose"
                    " another output folder"
                )
            updates = self.workers.students.load(checkpoint)
            step = -(-updates // self.prepared.schedule.updates_per_batch)
            log_line(f"continuing after step {step}")
            made = tuple(Evaluation.from_json(one) for one in record["evaluations"])
            state = RunState(step=step, evaluations=made, ended=record["ended"])
            saved = read_generations(checkpoint)
        return replace(state, weights=self.sync(state.step)), saved

    def sync(self, step: int) -> str:
        """Send the student's weights to the engines as those after `step` steps; return their checksum."""
        snapshot = self.workers.students.sync(self.workers.engines, step)
        return f"{snapshot.checksum:016x}"

    def after(self, state: RunState, done: CompletedStep, spent: Spent) -> RunState:
        """Return the state after a step, with its evaluation if one is due. `spent`: what all steps so far took."""
        budget, steps, settings = self.prepared.run.budget, self.prepared.schedule.steps, self.evaluation
        state = replace(state, step=done.step, weights=done.weights)
        ended = ended_by(budget, done.step, steps, spent)
        if settings is not None and is_due(settings.every_steps, done.step, is_last=ended is not None):
            state = self.evaluated(state, f"after step {done.step}")
            if out_of_patience(state.evaluations, settings.best_by, settings.patience):
                ended = ended or "patience"
        return replace(state, ended=ended)

    def evaluated(self, state: RunState, when: str) -> RunState:
        """Return the state with an evaluation of the engines' weights, which are the state's. Unchanged if it has one, or without
        held-out problems."""
        held_out = self.prepared.held_out
        if held_out is None or state.evaluation(state.step) is not None:
            return state
        found = stored_or_new(
            self.folder, state.step, state.weights, lambda: self._measured(held_out, state, when)
        )
        return replace(state, evaluations=(*state.evaluations, found))

    def _measured(self, held_out: HeldOut, state: RunState, when: str) -> tuple[Grades, dict[str, float]]:
        """Return the grades of the engines' weights, and what else is measured of the responses. Entropies are those of the
        student at the tokens of each problem's first response; not with colocated engines, which have the student's memory. The
        divergence from the teacher is that at the same tokens, if the plan has a pass for it and any of them counts."""
        run, sampling = self.prepared.run, evaluation_sampling(self.prepared)
        student = Student(weights=state.weights, dtype=run.rollout_dtype, context=run.context_tokens)
        place = result_folder(self.folder, state.step)
        found = evaluate(self.workers.engines, held_out, when, sampling, student=student, folder=place)
        if self.prepared.run.placement.kind == "colocated":
            return found.grades, found.values()
        pairs = zip(held_out.prompts, found.first, strict=True)
        sequences = [sequence(prompt, one) for prompt, one in pairs]
        scores = self.workers.students.scores(sequences)
        entropies = np.concatenate([one.entropy for one in scores if one.entropy is not None])
        high = float((entropies >= HIGH_ENTROPY).mean())
        return found.grades, {
            **found.values(),
            "entropy_mean": float(entropies.mean(dtype=np.float64)),
            "high_entropy_share": high,
            **self._from_teacher(sequences),
        }

    def _from_teacher(self, sequences: Sequence[TokenSequence]) -> dict[str, float]:
        """Return the forward KL at tokens of high entropy of the teacher, by its name; empty where it is not measured."""
        one = self.prepared.plan.evaluation_pass(self.prepared.shared_vocab)
        found = None if one is None else high_entropy_divergence(self.workers, one, sequences)
        return {} if found is None else {"forward_kl_high_entropy": found}

    def best(self, state: RunState) -> Evaluation | None:
        """Return the best evaluation so far if its student is kept (`evaluation.keep_best`)."""
        settings = self.evaluation
        keeps = settings is not None and settings.keep_best
        return best_of(state.evaluations, settings.best_by) if settings is not None and keeps else None

    def must_save(self, state: RunState) -> bool:
        """Whether a checkpoint of the state is due: at its interval, at the end, and for the best student so far."""
        best = self.best(state)
        at_interval = state.step % self.prepared.run.checkpoints.every == 0
        return at_interval or state.ended is not None or (best is not None and best.step == state.step)

    def save(self, state: RunState, rollouts: Sequence[Generation] = ()) -> None:
        """Write the checkpoint of a state, with the rollouts of the next step that exist already."""
        best = self.best(state)
        self.workers.students.save(
            self.folder / CHECKPOINTS,
            state.step,
            {"fingerprint": self.prepared.fingerprint, **state.record()},
            keep=self.prepared.run.checkpoints.keep,
            best=None if best is None else best.step,
            rollouts=() if state.ended is not None else rollouts,
        )

    def load_exported(self, state: RunState) -> int:
        """Load the student that is exported, the best one if it is kept, and return its step.

        Raises `UserError` if the best checkpoint is damaged.
        """
        best = self.best(state)
        if best is None or best.step == state.step:
            return state.step
        checkpoint = step_folder(self.folder / CHECKPOINTS, best.step)
        wrong = damage(checkpoint)
        if wrong is None:
            log_line(f"loading the best student, after step {best.step}")
            self.workers.students.load(checkpoint)
            found = self.sync(best.step)
            wrong = None if found == best.weights else "its weights are not those that were evaluated"
        if wrong is not None:
            raise UserError(
                f"the best checkpoint {checkpoint} cannot be exported ({wrong}): restore its files, or delete the run's folder to"
                " start from the beginning"
            )
        return best.step
