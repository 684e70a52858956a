"""Evaluations, budget and trackers of a run before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from tasks.text import counted
from training.config import EvaluationSettings, RunConfig

__all__ = ["reporter_problems", "stopping_lines"]


def reporter_problems(names: Sequence[str]) -> list[str]:
    """Return a problem for each tracker that is not installed. None is imported."""
    return [
        f"report_to: {name} is not installed: install it (pip install -c constraints.txt {name}), or remove it from report_to"
        for name in names
        if find_spec(name) is None
    ]


def stopping_lines(run: RunConfig, *, most_tokens: int) -> list[str]:
    """Return the evaluations during the training and the budget as lines of the check, none without them. `most_tokens`: the
    response tokens that all steps have at most."""
    lines, limits, budget = [], [], run.budget
    if run.evaluation is not None and run.evaluation.every_steps is not None:
        lines.append(f"evaluates  {_evaluations(run.evaluation, run.evaluation.every_steps)}")
    if budget.max_tokens is not None:
        never = ", more than all steps can have" if most_tokens < budget.max_tokens else ""
        limits.append(f"{budget.max_tokens:,} response tokens{never}")
    if budget.max_hours is not None:
        limits.append(f"{budget.max_hours:g} hours of steps")
    return lines + ([f"budget     {' or '.join(limits)}"] if limits else [])


def _evaluations(settings: EvaluationSettings, every: int) -> str:
    parts = [f"every {counted(every, 'step')}"]
    if settings.keep_best:
        parts.append(f"the student with the best {settings.best_by} is exported")
    if settings.patience is not None:
        parts.append(f"the run ends after {settings.patience} without a better {settings.best_by}")
    return ", ".join(parts)
