"""One rollout batch: draw prompts, generate rollouts, score them with the teacher and build the student's micro-batches.

Rollouts are always in the order of the draws (K of the first, K of the second, ...), independent of the order in which they
finish, so that a run that was killed and continued has bitwise identical gradients.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.data.batches import TokenSequence
from training.data.packing import pack
from training.data.sampler import PromptGroup
from training.losses.base import LossInputs
from training.losses.reductions import Totals
from training.objectives.base import Objective
from training.preflight.check import Prepared
from training.preflight.sampling import sampling
from training.rollouts.engine import Generation, RolloutRequest
from training.rollouts.sequences import sequence
from training.scorers.teacher import States, TopK
from training.student.messages import MicroBatch, tensors
from training.worker_set import PendingScores, Workers

__all__ = ["RolloutBatch", "generate_batch", "micro_batches"]

SCORING_PARTS = 4
"""Number of parts of a rollout batch. A part is sent to the teacher as soon as its last rollout has finished, so that scoring
overlaps with generation, and training on the first parts with scoring of the others. A part is contiguous in the order of the
draws, so that its content does not depend on timing."""


View = dict[str, np.ndarray]
"""The loss inputs of some response tokens: arrays [T, ...] by the field names of `training.losses.base.LossInputs`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBatch:
    """A rollout batch of S = prompts x K rollouts.

    `weights` [S] float64: the prompt weight of every rollout. `teacher_scores`: the pending teacher scores of each part.
    `reference_scores`: the pending reference log-probabilities, empty without a reference. `rollout_seconds`: seconds of
    generation.
    """

    step: int
    groups: tuple[PromptGroup, ...]
    sequences: tuple[TokenSequence, ...]
    generations: tuple[Generation, ...]
    teacher_scores: tuple[PendingScores[TopK | States], ...]
    weights: np.ndarray
    rollout_seconds: float
    reference_scores: tuple[PendingScores[np.ndarray], ...] = ()

    @property
    def parts(self) -> list[range]:
        """The rollout indices of each part."""
        return _parts(len(self.sequences))

    def scoring_seconds(self) -> dict[str, float]:
        """Return the seconds of scoring by the teacher and, if there is one, the reference. Waits for both."""
        models = {"teacher": self.teacher_scores} | (
            {"reference": self.reference_scores} if self.reference_scores else {}
        )
        return {name: sum(one.get()[1] for one in scores) for name, scores in models.items()}

    @property
    def totals(self) -> Totals:
        """The totals that reductions divide by."""
        tokens = sum(len(generation.tokens) for generation in self.generations)
        return Totals(sequences=len(self.sequences), tokens=tokens)


def generate_batch(
    workers: Workers, prepared: Prepared, weights: np.ndarray, step: int, *, saved: Sequence[Generation] = ()
) -> RolloutBatch:
    """Generate the rollouts of a step and request their scores.

    `weights` [rows] float64: one for each of `prepared.rows`. `saved`: the rollouts of the step if a checkpoint has them;
    they are only scored, and none are generated.
    """
    groups = prepared.schedule.step(step)
    prompts = [prepared.rows[group.row].prompt_ids for group in groups for _ in group.seeds]
    seeds = [seed for group in groups for seed in group.seeds]
    requests = [RolloutRequest(prompt=p, seed=s) for p, s in zip(prompts, seeds, strict=True)]
    started = time.perf_counter()
    parts = _parts(len(requests))
    found: dict[int, Generation] = {}
    teacher_scores: dict[int, PendingScores[TopK | States]] = {}
    reference_scores: dict[int, PendingScores[np.ndarray]] = {}
    for index, generation in (
        enumerate(saved) if saved else workers.engines.stream(requests, sampling(prepared))
    ):
        found[index] = generation
        for number, part in enumerate(parts):
            if number not in teacher_scores and all(place in found for place in part):
                ended = [sequence(prompts[place], found[place]) for place in part]
                teacher_scores[number] = workers.score(ended, number)
                if (pending := workers.reference_logprobs(ended, number)) is not None:
                    reference_scores[number] = pending
    generated = time.perf_counter()
    generations = tuple(found[index] for index in range(len(requests)))
    return RolloutBatch(
        step=step,
        groups=groups,
        sequences=tuple(sequence(prompt, one) for prompt, one in zip(prompts, generations, strict=True)),
        generations=generations,
        teacher_scores=tuple(teacher_scores[number] for number in range(len(parts))),
        weights=np.repeat(weights[[group.row for group in groups]], [len(group.seeds) for group in groups]),
        rollout_seconds=generated - started,
        reference_scores=tuple(reference_scores[number] for number in sorted(reference_scores)),
    )


def micro_batches(
    batch: RolloutBatch, part: int, objective: Objective, prepared: Prepared
) -> list[list[MicroBatch]]:
    """Build the micro-batches of a part for every student rank: `result[rank][i]`.

    Waits until teacher and reference have scored the part. Rollouts of weight 0 count in the denominators but are not trained on.
    """
    run, ranks, rollouts = prepared.run, prepared.run.placement.students, batch.parts[part]
    views = _views(batch, part)
    kept = [index for index in rollouts if batch.weights[index] > 0]
    lengths = [len(batch.sequences[index].tokens) for index in kept]
    cut = pack(lengths, budget=run.trainer.micro_batch_tokens, ranks=ranks)
    return [
        [_micro_batch(batch, views, objective, [kept[place] for place in chosen]) for chosen in batches]
        for batches in cut
    ]


def _micro_batch(
    batch: RolloutBatch, views: Mapping[int, View], objective: Objective, chosen: Sequence[int]
) -> MicroBatch:
    """Return the chosen rollouts with the coefficient and the loss inputs of every response token."""
    sequences, signals = tuple(batch.sequences[index] for index in chosen), _signals(views, chosen)
    if not sequences:
        return MicroBatch(sequences=(), coefficients=np.zeros(0, dtype=np.float32), signals=signals)
    inputs = LossInputs(
        sampled_ids=torch.from_numpy(np.concatenate([one.response for one in sequences]).astype(np.int64)),
        **tensors(signals),
    )
    coefficients = objective.coefficients(
        torch.from_numpy(batch.weights[list(chosen)]),
        torch.tensor([len(one.response) for one in sequences]),
        inputs,
        batch.totals,
    )
    return MicroBatch(
        sequences=sequences, coefficients=coefficients.numpy().astype(np.float32), signals=signals
    )


def _views(batch: RolloutBatch, part: int) -> dict[int, View]:
    """Return the loss inputs of each rollout of a part; waits for the scores."""
    rollouts, scores = batch.parts[part], batch.teacher_scores[part].get()[0]
    reference_scores = (
        batch.reference_scores[part].get()[0] if batch.reference_scores else [None] * len(rollouts)
    )
    views: dict[int, View] = {}
    for index, score, own in zip(rollouts, scores, reference_scores, strict=True):
        teacher = (
            {"teacher_states": score.bits}
            if isinstance(score, States)
            else {"teacher_logprobs": score.logprobs, "teacher_ids": score.ids}
        )
        inputs = {
            **teacher,
            "rollout_logprobs": batch.generations[index].logprobs,
            "reference_logprobs": own,
        }
        views[index] = {name: values for name, values in inputs.items() if values is not None}
    return views


def _signals(views: Mapping[int, View], chosen: Sequence[int]) -> View:
    """Concatenate the loss inputs of the chosen rollouts; without any, the arrays have no rows."""
    return {
        name: np.concatenate([values[:0], *(views[index][name] for index in chosen)])
        for name, values in next(iter(views.values())).items()
    }


def _parts(count: int) -> list[range]:
    """Split `count` rollouts into up to SCORING_PARTS contiguous parts."""
    size = -(-count // SCORING_PARTS)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
