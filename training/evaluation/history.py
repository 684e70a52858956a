"""The evaluations of a run: which is the best, how many followed it without a gain, and how they are stored. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.evaluation.metrics import Grades, avg_at_n, pass_at_k

__all__ = ["Evaluation", "best_of", "described", "is_due", "out_of_patience", "step_values"]


def _pass_at_n(grades: Grades) -> float:
    return pass_at_k(grades, min(map(len, grades)))


MEASURES: Mapping[str, Callable[[Grades], float]] = {"accuracy": avg_at_n, "pass_at_n": _pass_at_n}
"""What evaluations are compared by (`evaluation.best_by`). The metric of a step has the prefix `held_out_`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The grades of the student after `step` steps, 0 before the training. `weights`: the checksum of the weights that generated
    the samples. `values`: what else was measured of the samples, by name."""

    step: int
    weights: str
    grades: Grades
    values: Mapping[str, float] = field(default_factory=dict)

    def value(self, by: str) -> float:
        """Return one of `MEASURES`."""
        return MEASURES[by](self.grades)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, which `from_json` reads."""
        return {
            "step": self.step,
            "weights": self.weights,
            "grades": [list(row) for row in self.grades],
            "values": dict(self.values),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_json` wrote."""
        return cls(
            step=data["step"], weights=data["weights"], grades=data["grades"], values=data.get("values", {})
        )


def is_due(every: int | None, step: int, *, is_last: bool) -> bool:
    """Whether a run that evaluates every `every` steps (None: never) does so after `step` steps. The last step is always due."""
    return every is not None and (is_last or step % every == 0)


def best_of(evaluations: Sequence[Evaluation], by: str) -> Evaluation | None:
    """Return the evaluation with the highest value, of equal ones the earliest; None without one after the first step. The
    student before the training is no candidate."""
    trained = [one for one in evaluations if one.step > 0]
    return max(trained, key=lambda one: one.value(by), default=None)


def out_of_patience(evaluations: Sequence[Evaluation], by: str, patience: int | None) -> bool:
    """Whether at least `patience` evaluations (None: any number) followed the best one."""
    best = best_of(evaluations, by)
    if best is None or patience is None:
        return False
    return sum(one.step > best.step for one in evaluations) >= patience


def step_values(evaluation: Evaluation) -> dict[str, float]:
    """Return the evaluation as metrics of its step."""
    measured = {name: measure(evaluation.grades) for name, measure in MEASURES.items()}
    return {f"held_out_{name}": value for name, value in {**measured, **evaluation.values}.items()}


def described(evaluations: Sequence[Evaluation]) -> list[dict[str, float]]:
    """Return step and values of every evaluation, in order."""
    return [{"step": one.step, **{name: one.value(name) for name in MEASURES}} for one in evaluations]
