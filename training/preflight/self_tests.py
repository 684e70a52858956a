"""Sanity checks before the first update: engines and student have the same weights, the divergence of the student from itself is
0, the teacher's scores form a distribution over the student's tokens, and the reference equals the student. Without them, a run
with such a defect would end hours later with plausible but wrong numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.errors import UserError
from training.console import log_line
from training.preflight.check import Prepared
from training.preflight.sampling import sampling
from training.rollouts.engine import RolloutRequest
from training.rollouts.sequences import sequence
from training.scorers.teacher import States, TopK
from training.weight_sync.sync import MAX_MISMATCH, check_mismatch, logprob_mismatch

if TYPE_CHECKING:
    from training.worker_set import Workers

__all__ = ["self_test"]

PROMPTS = 8
MASS_ROUNDING = 1e-3
DIVERGENCE_ROUNDING = 1e-2
BF16_EXPONENT = np.uint16(0x7F80)
"""The exponent bits of bf16, all set only in infinities and NaN."""


def self_test(workers: Workers, prepared: Prepared, version: int) -> None:
    """Run all sanity checks on one small batch of rollouts. Raises `UserError` with the remedy if one fails."""
    groups = prepared.schedule.step(0)[:PROMPTS]
    prompts = [prepared.rows[group.row].prompt_ids for group in groups]
    requests = [RolloutRequest(prompt=p, seed=d.seeds[0]) for p, d in zip(prompts, groups, strict=True)]
    generations = workers.engines.generate(requests, sampling(prepared))
    sequences = [sequence(prompt, one) for prompt, one in zip(prompts, generations, strict=True)]
    own = np.concatenate(workers.students.logprobs(sequences))
    mean, most = logprob_mismatch(np.concatenate([one.logprobs for one in generations]), own)
    check_mismatch(mean, version=version)
    check_divergence(workers.students.self_divergence(sequences[0]))
    description = check_scores(workers.score(sequences).get()[0])
    reference = (
        workers.reference_logprobs(sequences) if version == 0 else None
    )  # only before the first update
    if reference is not None:
        check_reference(logprob_mismatch(np.concatenate(reference.get()[0]), own)[0])
    log_line(
        f"self-test: trainer/engine mismatch {mean:.4f} nats per token (maximum {most:.2f}); {description}"
    )


def check_scores(scores: Sequence[TopK | States]) -> str:
    """Return a short description of the teacher's scores. Raises `UserError` unless they form, or represent, a distribution."""
    states = [one.bits for one in scores if isinstance(one, States)]
    if states:
        if any(((bits & BF16_EXPONENT) == BF16_EXPONENT).any() for bits in states):
            raise UserError(
                "the teacher's hidden states contain NaN or infinity, because its checkpoint is damaged or its dtype too narrow:"
                " test the model in transformers"
            )
        return f"the teacher sends its full distribution as {states[0].shape[-1]} numbers per token"
    kept = [one.logprobs for one in scores if isinstance(one, TopK)]
    mass = np.concatenate([np.exp(one).sum(-1) for one in kept])
    check_mass(mass)
    return f"the teacher's top {kept[0].shape[-1]} tokens have {mass.mean():.1%} of its probability mass"


def check_divergence(nats: float) -> None:
    """Raise `UserError` unless the divergence of the student from itself is 0, up to rounding."""
    if not nats <= DIVERGENCE_ROUNDING:
        raise UserError(
            f"the divergence of the student from itself is {nats:.3g} nats at some token instead of 0, because the LM head or the"
            " softmax is wrong on this device or the checkpoint contains NaN: try trainer.dtype float32 and another torch build"
        )


def check_reference(mismatch: float) -> None:
    """Raise `UserError` unless the student before its first update equals the reference, up to rounding."""
    if mismatch > MAX_MISMATCH:
        raise UserError(
            f"the reference log-probabilities differ from the untrained student's by {mismatch:.3f} nats per token on average,"
            " though both are student.model, because its files have changed or this device computes wrong results: start again,"
            " or try trainer.dtype float32"
        )


def check_mass(mass: np.ndarray) -> None:
    """Raise `UserError` unless `mass` [T], the sums of the teacher's top-k probabilities, are those of a distribution."""
    if not np.isfinite(mass).all() or (mass <= 0).any() or (mass > 1 + MASS_ROUNDING).any():
        raise UserError(
            f"the teacher's top-k probabilities sum to {np.nanmin(mass):.3g} to {np.nanmax(mass):.3g}, because its checkpoint is"
            " damaged or its dtype too narrow: test the model in transformers"
        )
