"""Sampling of prompts: the prompts of every step and the seed of every rollout, a pure function of (seed, step). No torch.

Prompts are drawn uniformly with replacement. Every draw is its own group, even if two draws of a step give the same problem.
A run can continue at any step without replaying earlier ones, and runs that differ only in their objective have the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

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
    """All draws of a run. `kept`: indices of the rows to draw from."""

    row_ids: tuple[str, ...] = field(repr=False)
    kept: tuple[int, ...] = field(repr=False)
    total_prompts: int
    prompts_per_step: int
    group_size: int
    warmup_steps: int
    seed: int

    @property
    def steps(self) -> int:
        """Number of steps; the last may have fewer prompts."""
        return math.ceil(self.total_prompts / self.prompts_per_step)

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
        row = self.kept[request_seed(str(index), "draw", run) % len(self.kept)]
        row_id = self.row_ids[row]
        seeds = (request_seed(row_id, f"rollout/{index}/{k}", run) for k in range(self.group_size))
        return PromptGroup(index=index, row=row, row_id=row_id, seeds=tuple(seeds))


def schedule(run: RunConfig, row_ids: Sequence[str], kept: Sequence[bool]) -> Schedule:
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
        total_prompts=run.batches.total_prompts,
        prompts_per_step=run.prompts_per_step,
        group_size=run.rollouts.group_size,
        warmup_steps=run.warmup_steps,
        seed=run.seed,
    )
