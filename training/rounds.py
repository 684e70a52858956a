"""One round of on-policy data: prompts drawn, rollouts generated, the teacher's view of them, and the student's batches.

Everything stands in the order of the draws (K rollouts of the first, K of the second, ...), whatever ended first, so that a
run that was killed and continued gives the same gradient bit by bit.
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
"""Parts of a round that the teacher gets, each as soon as its last rollout has ended: it scores while engines generate, and
the student learns from the first parts while the teacher scores the others. Neighbours in the order of the draws, so that
what a part holds does not depend on time."""


View = dict[str, np.ndarray]
"""What is known of response tokens: arrays [T, ...] by the names of `training.objectives.base.Positions`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """S = prompts x K rollouts. `weights` [S] float64: of each one's prompt. `asked`: the teacher at work on each of `parts`,
    `recalled`: the reference, if there is one. `rollout_seconds` that the engines took."""

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
        """The rollouts of each part, as indices."""
        return _parts(len(self.sequences))

    def scoring_seconds(self) -> dict[str, float]:
        """Seconds that the teacher worked, and the reference where there is one, by name; waits for them."""
        asked = {"teacher": self.asked} | ({"reference": self.recalled} if self.recalled else {})
        return {name: sum(one.get()[1] for one in scores) for name, scores in asked.items()}

    @property
    def totals(self) -> Totals:
        """What the reductions divide by."""
        tokens = sum(len(generation.tokens) for generation in self.generations)
        return Totals(sequences=len(self.sequences), tokens=tokens)


def draw_round(
    crew: Crew, prepared: Prepared, prompt_weights: np.ndarray, step: int, *, drawn: Sequence[Generation] = ()
) -> Round:
    """Generate the rollouts of a step and have them scored. `prompt_weights` [rows] float64, one for each of `prepared.rows`.

    `drawn` are the step's rollouts where they exist already (a checkpoint kept them): they are scored, and nothing is generated.
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
    """`result[rank][i]`: what each student rank gets of a part of the round; waits until teacher and reference have scored it.
    Rollouts of weight 0 count in the denominators and go no further."""
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
    """The chosen rollouts with every response token's coefficient and what is known of it."""
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
    """What is known of each rollout of a part; waits for it."""
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
    """The views of the chosen rollouts one after the other; with nothing chosen they have no row."""
    return {
        name: np.concatenate([values[:0], *(views[index][name] for index in chosen)])
        for name, values in next(iter(views.values())).items()
    }


def _parts(count: int) -> list[range]:
    """The round cut into up to SCORING_PARTS runs of neighbours."""
    size = -(-count // SCORING_PARTS)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def sequence(prompt: Sequence[int], generation: Generation) -> TokenSequence:
    """Prompt and response as the student and the teacher read them."""
    tokens = np.concatenate([np.asarray(prompt, dtype=np.int32), generation.tokens.astype(np.int32)])
    return TokenSequence(tokens=tokens, prompt_length=len(prompt))
