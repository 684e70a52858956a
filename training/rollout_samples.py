"""Sample rollouts of a step as rows of a table: prompt, response, reward and weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from training.batch import RolloutBatch
from training.data.rows import TrainingRow

__all__ = ["sample_rows"]

MAX_ROLLOUTS = 16


def sample_rows(
    batch: RolloutBatch, rows: Sequence[TrainingRow], decode: Callable[[Sequence[int]], str]
) -> list[dict[str, Any]]:
    """Return the first rollouts of a batch, in whole groups: at most `MAX_ROLLOUTS`, but at least one group.

    `reward` is None without verified answers, `logprob_mean` (nats per token, of the rollout engine) for responses of the
    dataset. Waits for the grades.
    """
    numbers, rewards = batch.group_numbers, batch.rewards
    return [
        {
            "step": batch.step + 1,
            "id": batch.groups[numbers[index]].row_id,
            "group": int(numbers[index]),
            "weight": float(batch.weights[index]),
            "reward": None if rewards is None else float(rewards[index]),
            "tokens": len(one.tokens),
            "finish_reason": one.finish_reason,
            "logprob_mean": _finite_mean(one.logprobs),
            "problem": rows[batch.groups[numbers[index]].row].text,
            "response": decode(one.tokens.tolist()),
        }
        for index, one in enumerate(batch.generations[: _count(batch)])
    ]


def _count(batch: RolloutBatch) -> int:
    """Return how many rollouts the largest number of whole groups has that is at most `MAX_ROLLOUTS`, at least one group."""
    ends = np.cumsum([len(group.seeds) for group in batch.groups])
    return int(max(ends[0], max(ends[ends <= MAX_ROLLOUTS], default=0)))


def _finite_mean(logprobs: np.ndarray) -> float | None:
    mean = float(logprobs.astype(np.float64).mean()) if len(logprobs) else float("nan")
    return mean if np.isfinite(mean) else None
