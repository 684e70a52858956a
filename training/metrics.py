"""Metrics of a training step: one flat dictionary of numbers, computed from the rollout batch and the update. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.batch import RolloutBatch
from training.student.group import Update
from training.student.messages import MicroBatch
from training.weight_sync.sync import logprob_mismatch

__all__ = ["PHASES", "phase_seconds", "step_metrics"]

PHASES = ("rollout", "teacher", "reference", "student", "sync")
"""The phases of a step, in order; a run without a frozen model does not have its phase."""


def step_metrics(
    batch: RolloutBatch,
    updates: Sequence[Update],
    *,
    staleness: int,
    sync: float,
    wall: float,
    generates: bool = False,
) -> dict[str, float]:
    """Return the metrics (name -> value) of step `batch.step + 1` (1, 2, ...) with its optimizer steps.

    `loss` and `gradient_norm` are means over the optimizer steps, `learning_rate` is that of the last. Diagnostics of the loss
    (`*_mass`, `entropy`, `clipped`, `reference_kl`, ...) are means over the trained response tokens; lengths and shares are over
    all rollouts. `staleness` counts the batches between the weights that generated and those that were updated. `sync` is the
    seconds of the weight sync, `wall` those of the whole step; `overlap` is the phases' total seconds over `wall`, 1 if no phases
    overlapped. `student_memory_gb`: peak memory of a student rank so far, in 10^9 bytes.
    """
    seconds = _seconds_by_phase(batch, updates, sync)
    work = sum(seconds.values())
    row: dict[str, float] = {
        "step": batch.step + 1,
        "loss": float(np.mean([update.loss for update in updates])),
        "learning_rate": updates[-1].learning_rate,
        "gradient_norm": float(np.mean([update.gradient_norm for update in updates])),
        **weight_metrics(batch),
        **token_metrics([seen for update in updates for _, seen in update.trained]),
        **response_metrics(batch),
        **reward_metrics(batch),
        **teacher_metrics(batch, generates=generates),
        **update_metrics(updates),
        "staleness": staleness,
        **throughput(batch, updates, wall),
        "seconds": wall,
        "overlap": work / wall,
        "student_memory_gb": max(update.memory for update in updates) / 1e9,
    }
    # only of the first optimizer step: after it the student is ahead of the engines
    row |= dict(zip(("mismatch_mean", "mismatch_max"), mismatch(updates[0].trained), strict=False))
    row |= {f"seconds_{name}": spent for name, spent in seconds.items()}
    return row | {f"share_{name}": spent / work for name, spent in seconds.items()}


def weight_metrics(batch: RolloutBatch) -> dict[str, float]:
    """Return the mean of the prompt weights and the share of those that are 0, over all rollouts."""
    weights = batch.weights[: len(batch.rollouts)]
    return {"weight_mean": float(weights.mean()), "weight_zero_share": float((weights == 0).mean())}


def _seconds_by_phase(batch: RolloutBatch, updates: Sequence[Update], sync: float) -> dict[str, float]:
    return {
        "rollout": batch.rollout_seconds,
        **batch.scoring_seconds(),
        "student": sum(update.seconds for update in updates),
        "sync": sync,
    }


def response_metrics(batch: RolloutBatch) -> dict[str, float]:
    """Return response lengths, the share of truncated responses and the mean log-probability of a token, over all rollouts."""
    lengths = [len(generation.tokens) for generation in batch.rollouts]
    return {
        "response_tokens_mean": float(np.mean(lengths)),
        "response_tokens_max": max(lengths),
        "response_tokens": sum(lengths),
        "truncated_share": float(np.mean([one.finish_reason == "length" for one in batch.rollouts])),
    } | _rollout_logprob(batch)


def _rollout_logprob(batch: RolloutBatch) -> dict[str, float]:
    """Return the mean log-probability of a token, unless it is not known, as for the dataset's responses."""
    mean = float(np.concatenate([one.logprobs for one in batch.rollouts]).mean())
    return {"rollout_logprob_mean": mean} if np.isfinite(mean) else {}


def throughput(batch: RolloutBatch, updates: Sequence[Update], wall: float) -> dict[str, float]:
    """Return the tokens of prompts and responses, and tokens per second: `tokens_per_second` of all of them over the step,
    `rollout_tokens_per_second` of the generated ones over their generation, without it if none were generated, and
    `trained_tokens_per_second` of the sequences that were trained on over the updates."""
    tokens, spent = sum(len(one.tokens) for one in batch.sequences), sum(one.seconds for one in updates)
    found: dict[str, float] = {"tokens": tokens, "tokens_per_second": tokens / wall}
    if batch.generated:
        generated = sum(len(one.tokens) for one in batch.generations)
        found["rollout_tokens_per_second"] = generated / batch.rollout_seconds
    trained = [
        one for update in updates for micro_batch, _ in update.trained for one in micro_batch.sequences
    ]
    if spent > 0:
        found["trained_tokens_per_second"] = sum(len(one.tokens) for one in trained) / spent
    return found


def reward_metrics(batch: RolloutBatch) -> dict[str, float]:
    """Return the share of right answers, that of the groups whose rewards are all equal, and the mean of the teacher's
    probability of the answers; nothing without a reward, or without these probabilities."""
    found: dict[str, float] = {}
    if batch.rewards is not None:
        numbers = batch.group_numbers[: len(batch.rewards)]
        groups = [batch.rewards[numbers == number] for number in range(len(batch.groups))]
        found["reward_mean"] = float(batch.rewards.mean())
        found["agreeing_groups"] = float(np.mean([np.ptp(group) == 0 for group in groups]))
    return found if batch.shares is None else found | {"answer_share_mean": float(batch.shares.mean())}


def teacher_metrics(batch: RolloutBatch, *, generates: bool = False) -> dict[str, float]:
    """Return for each of several teachers `teacher_share_<name>`, its share of the prompts, and `teacher_weight_<name>`, the mean
    of its weight on those that it teaches (see `training.data.routing`); nothing with one teacher."""
    found = generated_metrics(batch) if generates else {}
    if batch.routing is None:
        return found
    rows = [group.row for group in batch.groups]
    return found | {
        f"teacher_{what}_{name}": value
        for name, values in batch.routing.summary(rows).items()
        for what, value in values.items()
    }


def generated_metrics(batch: RolloutBatch) -> dict[str, float]:
    """Return the number of prompts to which the teacher generated responses, and how many of them it solved."""
    solved = sum(source == "teacher" for _, source in batch.demonstrations)
    return {"teacher_asked": batch.asked_teacher, "teacher_solved": solved}


def update_metrics(updates: Sequence[Update]) -> dict[str, float]:
    """Return the diagnostics of the sequence loss, means over the optimizer steps that have them, and `clipped_last`."""
    names = dict.fromkeys(name for update in updates for name in update.diagnostics)
    return {
        name: float(np.mean([one.diagnostics[name] for one in updates if name in one.diagnostics]))
        for name in names
    } | last_clipped(updates)


def last_clipped(updates: Sequence[Update]) -> dict[str, float]:
    """Return the share of clipped tokens of the last of several optimizer steps, in which the policy has moved furthest from the
    one that generated; nothing with one step, or without a clip."""
    if len(updates) < 2:
        return {}
    found = token_metrics([seen for _, seen in updates[-1].trained])
    return {"clipped_last": found["clipped"]} if "clipped" in found else {}


def phase_seconds(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the total seconds of each phase over all steps."""
    names = [name for name in PHASES if any(f"seconds_{name}" in row for row in rows)]
    return {name: sum(row[f"seconds_{name}"] for row in rows) for name in names}


def mismatch(
    pairs: Sequence[tuple[MicroBatch, Mapping[str, np.ndarray]]],
) -> tuple[float, ...]:
    """Return the trainer/engine mismatch: mean and maximum of |log p(engine) - log p(student)| over the trained tokens.

    Only micro-batches whose token loss reports `sampled_logprob` count, (0, 0) without any; empty for responses that no engine
    sampled.
    """
    if any("rollout_logprobs" not in batch.signals for batch, _ in pairs):
        return ()
    sampled = [(batch.signals["rollout_logprobs"], seen.get("sampled_logprob")) for batch, seen in pairs]
    both = [(engine, student) for engine, student in sampled if student is not None]
    if not both:
        return 0.0, 0.0
    engine = np.concatenate([one for one, _ in both])
    student = np.concatenate([one for _, one in both])
    here = np.isfinite(student) & np.isfinite(
        engine
    )  # NaN: skipped positions, and tokens that no engine sampled
    return logprob_mismatch(engine[here], student[here])


def token_metrics(seen: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Return the mean over tokens of every metric of the token loss except the sampled token's log-probability."""
    names = sorted({name for one in seen for name in one} - {"sampled_logprob"})
    joined = {name: np.concatenate([one[name] for one in seen if name in one]) for name in names}
    return {
        name: float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else 0.0
        for name, values in joined.items()
    }
