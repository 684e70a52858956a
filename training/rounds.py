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

from training.check import Prepared
from training.crew import Crew, Scores, sampling
from training.draws import Draw
from training.engine.batches import TokenSequence
from training.engine.student import MicroBatch, tensors
from training.objectives.base import Objective, Positions
from training.objectives.reductions import Totals
from training.packing import pack
from training.rollout.engine import Generation, RolloutRequest
from training.rollout.teacher import States, TopK

__all__ = ["Round", "draw_round", "micro_batches", "sequence"]

SCORING_PARTS = 4
"""Number of parts of a rollout batch. A part is sent to the teacher as soon as its last rollout has finished, so that scoring
overlaps with generation, and training on the first parts with scoring of the others. A part is contiguous in the order of the
draws, so that its content does not depend on timing."""


View = dict[str, np.ndarray]
"""The loss inputs of some response tokens: arrays [T, ...] by the field names of `training.objectives.base.Positions`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A rollout batch of S = prompts x K rollouts.

    `weights` [S] float64: the prompt weight of every rollout. `asked`: the pending teacher scores of each part. `recalled`: the
    pending reference log-probabilities, empty without a reference. `rollout_seconds`: seconds of generation.
    """

    step: int
    draws: tuple[Draw, ...]
    sequences: tuple[TokenSequence, ...]
    generations: tuple[Generation, ...]
    asked: tuple[Scores[TopK | States], ...]
    weights: np.ndarray
    rollout_seconds: float
    recalled: tuple[Scores[np.ndarray], ...] = ()

    @property
    def parts(self) -> list[range]:
        """The rollout indices of each part."""
        return _parts(len(self.sequences))

    def scoring_seconds(self) -> dict[str, float]:
        """Return the seconds of scoring by the teacher and, if there is one, the reference. Waits for both."""
        asked = {"teacher": self.asked} | ({"reference": self.recalled} if self.recalled else {})
        return {name: sum(one.get()[1] for one in scores) for name, scores in asked.items()}

    @property
    def totals(self) -> Totals:
        """The totals that reductions divide by."""
        tokens = sum(len(generation.tokens) for generation in self.generations)
        return Totals(sequences=len(self.sequences), tokens=tokens)


def draw_round(
    crew: Crew, prepared: Prepared, prompt_weights: np.ndarray, step: int, *, drawn: Sequence[Generation] = ()
) -> Round:
    """Generate the rollouts of a step and request their scores.

    `prompt_weights` [rows] float64: one for each of `prepared.rows`. `drawn`: the rollouts of the step if a checkpoint has them;
    they are only scored, and none are generated.
    """
    draws = prepared.schedule.step(step)
    prompts = [prepared.rows[draw.row].prompt_ids for draw in draws for _ in draw.seeds]
    seeds = [seed for draw in draws for seed in draw.seeds]
    requests = [RolloutRequest(prompt=p, seed=s) for p, s in zip(prompts, seeds, strict=True)]
    started = time.perf_counter()
    parts = _parts(len(requests))
    found: dict[int, Generation] = {}
    asked: dict[int, Scores[TopK | States]] = {}
    recalled: dict[int, Scores[np.ndarray]] = {}
    for index, generation in enumerate(drawn) if drawn else crew.engines.stream(requests, sampling(prepared)):
        found[index] = generation
        for number, part in enumerate(parts):
            if number not in asked and all(place in found for place in part):
                ended = [sequence(prompts[place], found[place]) for place in part]
                asked[number] = crew.score(ended, number)
                if (recall := crew.recall(ended, number)) is not None:
                    recalled[number] = recall
    generated = time.perf_counter()
    generations = tuple(found[index] for index in range(len(requests)))
    return Round(
        step=step,
        draws=draws,
        sequences=tuple(sequence(prompt, one) for prompt, one in zip(prompts, generations, strict=True)),
        generations=generations,
        asked=tuple(asked[number] for number in range(len(parts))),
        weights=np.repeat(prompt_weights[[draw.row for draw in draws]], [len(draw.seeds) for draw in draws]),
        rollout_seconds=generated - started,
        recalled=tuple(recalled[number] for number in sorted(recalled)),
    )


def micro_batches(
    round_: Round, part: int, objective: Objective, prepared: Prepared
) -> list[list[MicroBatch]]:
    """Build the micro-batches of a part for every student rank: `result[rank][i]`.

    Waits until teacher and reference have scored the part. Rollouts of weight 0 count in the denominators but are not trained on.
    """
    run, ranks, rollouts = prepared.run, prepared.run.placement.students, round_.parts[part]
    views = _views(round_, part)
    kept = [index for index in rollouts if round_.weights[index] > 0]
    lengths = [len(round_.sequences[index].tokens) for index in kept]
    cut = pack(lengths, budget=run.engine.micro_batch_tokens, ranks=ranks)
    return [
        [_micro_batch(round_, views, objective, [kept[place] for place in chosen]) for chosen in batches]
        for batches in cut
    ]


def _micro_batch(
    round_: Round, views: Mapping[int, View], objective: Objective, chosen: Sequence[int]
) -> MicroBatch:
    """Return the chosen rollouts with the coefficient and the loss inputs of every response token."""
    sequences, signals = tuple(round_.sequences[index] for index in chosen), _signals(views, chosen)
    if not sequences:
        return MicroBatch(sequences=(), coefficients=np.zeros(0, dtype=np.float32), signals=signals)
    positions = Positions(
        sampled_ids=torch.from_numpy(np.concatenate([one.response for one in sequences]).astype(np.int64)),
        **tensors(signals),
    )
    coefficients = objective.coefficients(
        torch.from_numpy(round_.weights[list(chosen)]),
        torch.tensor([len(one.response) for one in sequences]),
        positions,
        round_.totals,
    )
    return MicroBatch(
        sequences=sequences, coefficients=coefficients.numpy().astype(np.float32), signals=signals
    )


def _views(round_: Round, part: int) -> dict[int, View]:
    """Return the loss inputs of each rollout of a part; waits for the scores."""
    rollouts, scores = round_.parts[part], round_.asked[part].get()[0]
    recalled = round_.recalled[part].get()[0] if round_.recalled else [None] * len(rollouts)
    views: dict[int, View] = {}
    for index, score, own in zip(rollouts, scores, recalled, strict=True):
        teacher = (
            {"teacher_states": score.bits}
            if isinstance(score, States)
            else {"teacher_logprobs": score.logprobs, "teacher_ids": score.ids}
        )
        known = {
            **teacher,
            "rollout_logprobs": round_.generations[index].logprobs,
            "reference_logprobs": own,
        }
        views[index] = {name: values for name, values in known.items() if values is not None}
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


def sequence(prompt: Sequence[int], generation: Generation) -> TokenSequence:
    """Join prompt and response into the sequence that student and teacher process."""
    tokens = np.concatenate([np.asarray(prompt, dtype=np.int32), generation.tokens.astype(np.int32)])
    return TokenSequence(tokens=tokens, prompt_length=len(prompt))
