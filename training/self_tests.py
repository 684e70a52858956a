"""What must hold before the first update: engines and student agree on the weights, a student that is its own teacher has
nothing to learn, the teacher's answers are a distribution over the student's tokens, and the reference is the student. A run
that starts wrong would end hours later with numbers that look right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.core.errors import UserError
from training.check import Prepared
from training.crew import Crew, sampling
from training.records import say
from training.rollout.engine import RolloutRequest
from training.rollout.sync import STALE_GAP, check_gap, logprob_gap
from training.rollout.teacher import States, TopK
from training.rounds import sequence

__all__ = ["self_test"]

PROMPTS = 8
MASS_ROUNDING = 1e-3
DIVERGENCE_ROUNDING = 1e-2
BF16_EXPONENT = np.uint16(0x7F80)
"""The bits that are all set in bf16's infinities and NaN, and in no other number."""


def self_test(crew: Crew, prepared: Prepared, version: int) -> None:
    """Raise `UserError`, saying what to do, unless the run's parts agree; takes one small batch of rollouts."""
    draws = prepared.schedule.step(0)[:PROMPTS]
    prompts = [prepared.rows[draw.row].prompt_ids for draw in draws]
    requests = [RolloutRequest(prompt=p, seed=d.seeds[0]) for p, d in zip(prompts, draws, strict=True)]
    generations = crew.engines.generate(requests, sampling(prepared))
    sequences = [sequence(prompt, one) for prompt, one in zip(prompts, generations, strict=True)]
    own = np.concatenate(crew.students.logprobs(sequences))
    mean, most = logprob_gap(np.concatenate([one.logprobs for one in generations]), own)
    check_gap(mean, version=version)
    check_divergence(crew.students.self_divergence(sequences[0]))
    told = check_scores(crew.score(sequences).get()[0])
    recall = crew.recall(sequences) if version == 0 else None  # afterwards the student is somewhere else
    if recall is not None:
        check_reference(logprob_gap(np.concatenate(recall.get()[0]), own)[0])
    say(f"self-test: engines and student differ by {mean:.4f} nats a token (at most {most:.2f}); {told}")


def check_scores(scores: Sequence[TopK | States]) -> str:
    """A word on what a teacher tells. `UserError` unless it is a distribution, or stands for one."""
    states = [one.bits for one in scores if isinstance(one, States)]
    if states:
        if any(((bits & BF16_EXPONENT) == BF16_EXPONENT).any() for bits in states):
            raise UserError(
                "the teacher's hidden states hold NaN or infinity: its checkpoint is damaged, or its dtype too narrow; try it in"
                " transformers"
            )
        return f"the teacher tells all of its distribution, by {states[0].shape[-1]} numbers a token"
    kept = [one.logprobs for one in scores if isinstance(one, TopK)]
    mass = np.concatenate([np.exp(one).sum(-1) for one in kept])
    check_mass(mass)
    return f"the teacher's top {kept[0].shape[-1]} hold {mass.mean():.1%} of its probability"


def check_divergence(nats: float) -> None:
    """`UserError` unless a student that is its own teacher has nothing to learn."""
    if not nats <= DIVERGENCE_ROUNDING:
        raise UserError(
            f"the student differs from itself by {nats:.3g} nats at some token, where it must be 0: the LM head or the softmax"
            " goes wrong on this device, or the checkpoint holds NaN; try engine.dtype float32 and another torch build"
        )


def check_reference(gap: float) -> None:
    """`UserError` unless the student before its first update is its reference, but for the rounding of their batches."""
    if gap > STALE_GAP:
        raise UserError(
            f"the reference's log-probabilities differ from the untrained student's by {gap:.3f} nats a token on average, where"
            " both are student.model: its files were changed meanwhile, or this device computes wrong; start again, or try"
            " engine.dtype float32"
        )


def check_mass(mass: np.ndarray) -> None:
    """`UserError` unless the teacher's kept probabilities [T] are those of a distribution."""
    if not np.isfinite(mass).all() or (mass <= 0).any() or (mass > 1 + MASS_ROUNDING).any():
        raise UserError(
            f"the teacher gives probabilities that sum to {np.nanmin(mass):.3g} to {np.nanmax(mass):.3g}: its checkpoint is"
            " damaged, or its dtype too narrow; try it in transformers"
        )
