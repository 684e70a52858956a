"""Sanity checks before the first update: engines and student have the same tokens and weights, packed rows give the same
log-probabilities as single ones, the divergence of the student from itself is 0, the teacher's scores form a distribution over
the student's tokens, and the reference equals the student. Without them, a run with such a defect would end hours later with
plausible but wrong numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.errors import UserError
from training.console import log_line
from training.data.model_files import given_template
from training.preflight.check import Prepared
from training.preflight.sampling import sampling
from training.rollouts.engine import Generation, RolloutRequest
from training.rollouts.sequences import sequence
from training.scorers.scores import Scores
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
    run, groups = prepared.run, prepared.schedule.step(0)[:PROMPTS]
    rows = [prepared.rows[group.row] for group in groups]
    prompts = [row.prompt_ids for row in rows]
    engine_prompts = workers.engines.prompt_ids(
        [row.text for row in rows],
        thinking=run.lengths.thinking,
        day=run.prompt.date,
        chat_template=given_template(run.prompt),
    )
    check_prompts([row.id for row in rows], prompts, engine_prompts)
    requests = [RolloutRequest(prompt=p, seed=d.seeds[0]) for p, d in zip(prompts, groups, strict=True)]
    generations = workers.engines.generate(requests, sampling(prepared))
    sequences = [sequence(prompt, one) for prompt, one in zip(prompts, generations, strict=True)]
    own = np.concatenate([workers.students.logprobs([one])[0] for one in sequences])  # each alone
    mean, most = logprob_mismatch(np.concatenate([one.logprobs for one in generations]), own)
    check_mismatch(mean, version=version)
    if not run.student.dropout and (run.trainer.lora is None or not run.trainer.lora.dropout):
        packed = np.concatenate(workers.students.logprobs(sequences, training=True))
        check_packed(logprob_mismatch(packed, own)[0])
    check_divergence(workers.students.self_divergence(sequences[0]))
    found = _check_passes(workers, prepared, generations, own, version)
    log_line(
        f"self-test: trainer/engine mismatch {mean:.4f} nats per token (maximum {most:.2f})"
        + "".join(f"; {description}" for description in found)
    )


def _check_passes(
    workers: Workers,
    prepared: Prepared,
    generations: Sequence[Generation],
    own: np.ndarray,
    version: int,
) -> list[str]:
    """Check the scores of every scoring pass on the rollouts of step 0; return a description of each teacher's. `own` [T]: the
    student's log-probabilities of the same tokens."""
    rows = [group.row for group in prepared.schedule.step(0)[:PROMPTS]]
    found = []
    for one in prepared.plan.passes:
        prompts = prepared.prompts(one.view)
        sequences = [
            sequence(prompts[row], generation) for row, generation in zip(rows, generations, strict=True)
        ]
        count = len(prepared.plan.scoring_teachers) if one.worker == "teacher" else 1
        for teacher in range(count):
            scores = workers.score(one, sequences, teacher=teacher).get()[0]
            found += check_scores(scores)
            if one.worker == "reference" and one.view == "plain" and version == 0:  # before the first update
                sampled = [score.sampled for score in scores if score.sampled is not None]
                if sampled:
                    check_reference(logprob_mismatch(np.concatenate(sampled), own)[0])
    return found


def check_prompts(
    ids: Sequence[str], ours: Sequence[Sequence[int]], engines: Sequence[Sequence[int]]
) -> None:
    """Raise `UserError` unless training and rollout engine tokenize the prompts of the rows `ids` alike."""
    for row, one, other in zip(ids, ours, engines, strict=True):
        if list(one) != list(other):
            raise UserError(
                f"the rollout engine's tokenizer makes {len(other)} ids of the prompt of row {row} and the training's {len(one)}"
                " ids, which differ: check tokenizer_class and the tokenizer files of student.model"
            )


def check_packed(mismatch: float) -> None:
    """Raise `UserError` unless the rows of an update have the log-probabilities of each sequence alone, up to rounding."""
    if not mismatch <= MAX_MISMATCH:
        raise UserError(
            f"the student's log-probabilities in the packed rows of an update differ by {mismatch:.3f} nats per token on average"
            " from those of each sequence alone, because its attention mixes sequences or a layer has dropout: try trainer.dtype"
            " float32 and another torch build"
        )


def check_scores(scores: Sequence[Scores]) -> list[str]:
    """Return short descriptions of a frozen model's scores. Raises `UserError` unless they form, or represent, a distribution."""
    found = []
    states = [one.states for one in scores if one.states is not None]
    if states:
        if any(((bits & BF16_EXPONENT) == BF16_EXPONENT).any() for bits in states):
            raise UserError(
                "the teacher's hidden states contain NaN or infinity, because its checkpoint is damaged or its dtype too narrow:"
                " test the model in transformers"
            )
        found.append(f"the teacher sends its full distribution as {states[0].shape[-1]} numbers per token")
    kept = [one.top_k.logprobs for one in scores if one.top_k is not None]
    if kept:
        mass = np.concatenate([np.exp(one).sum(-1) for one in kept])
        check_mass(mass)
        found.append(
            f"the teacher's top {kept[0].shape[-1]} tokens have {mass.mean():.1%} of its probability mass"
        )
    for one in scores:
        check_mass(np.ones(0) if one.sampled is None else np.exp(one.sampled.astype(np.float64)))
    return found


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
