"""What ends a run: its last step, a budget, or evaluations without a gain. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.text import counted
from training.config import RunConfig
from training.evaluation_settings import BudgetSettings

__all__ = ["Ending", "Spent", "ended_by", "ending_line"]

Ending = Literal["steps", "max_tokens", "max_hours", "patience"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the completed steps took: response tokens of their rollout batches, and seconds."""

    tokens: float = 0
    seconds: float = 0.0

    def plus(self, row: Mapping[str, float]) -> Spent:
        """Return the sum with the metrics of another step."""
        return Spent(tokens=self.tokens + row["response_tokens"], seconds=self.seconds + row["seconds"])

    @classmethod
    def by(cls, rows: Sequence[Mapping[str, float]]) -> Spent:
        """Return what the steps with these metrics took."""
        spent = cls()
        for row in rows:
            spent = spent.plus(row)
        return spent


def ended_by(budget: BudgetSettings, step: int, steps: int, spent: Spent) -> Ending | None:
    """Return what ends the run after `step` of `steps` steps, None if it goes on unless its evaluations end it
    (`history.out_of_patience`)."""
    if step >= steps:
        return "steps"
    if budget.max_tokens is not None and spent.tokens >= budget.max_tokens:
        return "max_tokens"
    if budget.max_hours is not None and spent.seconds >= 3600 * budget.max_hours:
        return "max_hours"
    return None


def ending_line(ending: Ending, run: RunConfig, step: int, steps: int, spent: Spent) -> str:
    """Return why the training ends before its last step."""
    settings = run.evaluation
    if ending == "patience" and settings is not None and settings.patience is not None:
        why = f"{counted(settings.patience, 'evaluation')} without a better {settings.best_by} (evaluation.patience)"
    elif ending == "max_tokens":
        why = f"{spent.tokens:,.0f} response tokens (budget.max_tokens {run.budget.max_tokens:,})"
    else:
        why = f"{spent.seconds / 3600:.2f} hours of steps (budget.max_hours {run.budget.max_hours:g})"
    return (
        f"the training ends after step {step:,} of {steps:,}: {why}; the learning rate followed its schedule over"
        f" {counted(steps, 'step')}"
    )
