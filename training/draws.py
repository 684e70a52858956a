"""Which prompts a run draws at which step, and the seed of every rollout: a pure function of (seed, step). No torch.

Draws are uniform and with replacement. Each is its own group, also when two draws of a step give the same problem. A run
is continued at any step without replaying the steps before, and runs that differ in their objective alone draw the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.core.identity import request_seed
from training.config import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One prompt drawn: a group of rollouts. `index` counts the draws of the whole run; `row` is a position in the rows."""

    index: int
    row: int
    row_id: str
    seeds: tuple[int, ...]  # of its rollouts, each below 2^63


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All draws of a run. `kept` are the positions of the rows that take part."""

    row_ids: tuple[str, ...] = field(repr=False)
    kept: tuple[int, ...] = field(repr=False)
    draws: int
    prompts_per_step: int
    rollouts_per_prompt: int
    warmup_steps: int
    seed: int

    @property
    def steps(self) -> int:
        return math.ceil(self.draws / self.prompts_per_step)

    def step(self, number: int) -> tuple[Draw, ...]:
        """The draws of step `number` (0, 1, ...); the last step may have fewer. IndexError outside of the run."""
        if not 0 <= number < self.steps:
            raise IndexError(f"step {number} is outside of a run of {self.steps} steps")
        first = number * self.prompts_per_step
        return tuple(
            self._draw(index) for index in range(first, min(first + self.prompts_per_step, self.draws))
        )

    def _draw(self, index: int) -> Draw:
        run = str(self.seed)
        row = self.kept[request_seed(str(index), "draw", run) % len(self.kept)]
        row_id = self.row_ids[row]
        seeds = (request_seed(row_id, f"rollout/{index}/{k}", run) for k in range(self.rollouts_per_prompt))
        return Draw(index=index, row=row, row_id=row_id, seeds=tuple(seeds))


def schedule(run: RunConfig, row_ids: Sequence[str], kept: Sequence[bool]) -> Schedule:
    """The draws of a run over these rows; `kept[i]` says whether row i takes part (see `prompt_weights.PromptWeights`).

    ValueError when the two differ in length or no row takes part.
    """
    positions = tuple(index for index, keep in enumerate(kept) if keep)
    if len(row_ids) != len(kept) or not positions:
        raise ValueError(
            f"{len(row_ids)} rows, {len(kept)} flags, {len(positions)} rows kept: nothing to draw from"
        )
    return Schedule(
        row_ids=tuple(row_ids),
        kept=positions,
        draws=run.batches.draws,
        prompts_per_step=run.prompts_per_step,
        rollouts_per_prompt=run.rollouts.per_prompt,
        warmup_steps=run.warmup_steps,
        seed=run.seed,
    )
