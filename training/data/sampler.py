"""Sampling of prompts: the prompts of every step and the seed of every rollout, a pure function of (seed, step). No torch.

Prompts are drawn uniformly with replacement, or all of them once per epoch, in a new order. Every draw is its own group, even if
two draws of a step give the same problem. A run can continue at any step without replaying earlier ones, and runs that differ
only in their algorithm have the same draws.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from tasks.identity import request_seed
from training.config import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptGroup:
    """One drawn prompt, which becomes a group of rollouts. `index` counts the draws of the whole run; `row` is a row index."""

    index: int
    row: int
    row_id: str
    seeds: tuple[int, ...]  # one per rollout, below 2^63


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All draws of a run. `kept`: indices of the rows to draw from. `updates_per_batch`: optimizer steps per rollout batch; a
    last batch with fewer prompts has one for each prompt. `in_epochs`: without replacement."""

    row_ids: tuple[str, ...] = field(repr=False)
    kept: tuple[int, ...] = field(repr=False)
    total_prompts: int
    prompts_per_step: int
    group_size: int
    warmup_fraction: float
    seed: int
    updates_per_batch: int = 1
    in_epochs: bool = False

    @property
    def steps(self) -> int:
        """Number of steps, that is, of rollout batches; the last may have fewer prompts."""
        return math.ceil(self.total_prompts / self.prompts_per_step)

    @property
    def updates(self) -> int:
        """Number of optimizer steps."""
        last = self.total_prompts - (self.steps - 1) * self.prompts_per_step
        return (self.steps - 1) * self.updates_per_batch + min(self.updates_per_batch, last)

    @property
    def warmup_updates(self) -> int:
        """Number of optimizer steps in which the learning rate rises."""
        return math.ceil(self.warmup_fraction * self.updates)

    def step(self, number: int) -> tuple[PromptGroup, ...]:
        """Return the draws of step `number` (0, 1, ...); the last step may have fewer. Raises `IndexError` if out of range."""
        if not 0 <= number < self.steps:
            raise IndexError(f"step {number} is out of range for a run of {self.steps} steps")
        first = number * self.prompts_per_step
        return tuple(
            self._group(index)
            for index in range(first, min(first + self.prompts_per_step, self.total_prompts))
        )

    def _group(self, index: int) -> PromptGroup:
        run = str(self.seed)
        row = self.kept[self._place(index, run)]
        row_id = self.row_ids[row]
        seeds = (request_seed(row_id, f"rollout/{index}/{k}", run) for k in range(self.group_size))
        return PromptGroup(index=index, row=row, row_id=row_id, seeds=tuple(seeds))

    def _place(self, index: int, run: str) -> int:
        """Return the place in `kept` of a draw."""
        if self.in_epochs:
            return _order(self.seed, index // len(self.kept), len(self.kept))[index % len(self.kept)]
        return request_seed(str(index), "draw", run) % len(self.kept)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    """Return the numbers 0 ... count - 1 in the order of an epoch."""
    order = list(range(count))
    random.Random(request_seed(str(epoch), "epoch", str(seed))).shuffle(order)
    return tuple(order)


def schedule(
    run: RunConfig, row_ids: Sequence[str], kept: Sequence[bool], updates_per_batch: int = 1
) -> Schedule:
    """Return the draws of a run over these rows; only rows with `kept[i]` are drawn (see `prompt_weights.PromptWeights`).

    Raises `ValueError` if the lengths differ or no row is kept.
    """
    positions = tuple(index for index, keep in enumerate(kept) if keep)
    if len(row_ids) != len(kept) or not positions:
        raise ValueError(
            f"cannot draw prompts from {len(row_ids)} rows with {len(kept)} flags, {len(positions)} of them kept"
        )
    return Schedule(
        row_ids=tuple(row_ids),
        kept=positions,
        total_prompts=run.batches.total_prompts or run.batches.epochs * len(positions),
        prompts_per_step=run.prompts_per_step,
        group_size=run.rollouts.group_size,
        warmup_fraction=run.optimizer.warmup_fraction,
        seed=run.seed,
        updates_per_batch=updates_per_batch,
        in_epochs=run.batches.draw == "epochs",
    )
