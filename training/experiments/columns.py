"""Measured values of a cell by their names in `columns` of an experiment. Pure.

| name | value |
|---|---|
| `avg_at_N` | mean share of correct samples, of N samples; an unbiased estimate of pass@1 |
| `pass_at_K` | pass@K by the unbiased estimator, for K up to the number of samples |
| `steps`, `tokens`, `seconds` | optimizer steps, response tokens and seconds of the training at its last evaluation |
| `tokens_per_second` | `tokens` / `seconds` |
| `hours` | `seconds` / 3600 |
| `entropy`, `high_entropy_share`, `forward_kl_high_entropy`, `truncated`, `response_tokens` | of the last evaluation's samples |
| `student_memory_gb`, `teacher_memory_gb` | peak memory of one worker, in 10^9 bytes |
| `metrics.NAME` | mean of a metric of the run log over the last steps (docs/training.md) |

A value that a cell does not have is None, never 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.errors import UserError
from tasks.text import words
from training.evaluation.statistics import Values, average_values, pass_values
from training.experiments.stored import CellResult, Point, grades_of

__all__ = ["Measure", "measure_of", "point_values"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One measured value. `value`: of a cell, None where the cell does not have it. `problems`: one number per held-out problem
    at a point of the curve, whose mean is the value; only accuracies have it, and only they are compared. `percent`: shown times
    100."""

    name: str
    header: str
    value: Callable[[CellResult], float | None]
    problems: Callable[[CellResult, Point], Values | None] | None = None
    percent: bool = False
    digits: int = 1

    def shown(self, value: float, *, sign: bool = False) -> str:
        """Return a value as text."""
        return f"{100 * value if self.percent else value:{'+' if sign else ''},.{self.digits}f}"


def measure_of(name: str) -> Measure:
    """Return the measure of that name. Raises `UserError` if there is none."""
    if (found := re.fullmatch(r"(avg|pass)_at_([1-9]\d{0,3})", name)) is not None:
        return _accuracy(name, found[1], int(found[2]))
    if name.startswith("metrics.") and len(name) > len("metrics."):
        key = name.removeprefix("metrics.")
        return Measure(name=name, header=words(key), value=lambda cell: _number(cell.metrics, key), digits=3)
    if name in _SIMPLE:
        return _SIMPLE[name]
    known = ", ".join(("avg_at_N", "pass_at_K", *_SIMPLE, "metrics.NAME"))
    raise UserError(f"unknown column {name!r}: choose among {known}")


def point_values(measure: Measure, cell: CellResult) -> Values | None:
    """Return the value of every held-out problem after the training, None where there are none."""
    return None if measure.problems is None else measure.problems(cell, cell.curve[-1])


def _accuracy(name: str, kind: str, number: int) -> Measure:
    def problems(cell: CellResult, point: Point) -> Values | None:
        samples = int(cell.evaluation["samples"])
        if kind == "avg":
            return average_values(grades_of(point, samples)) if samples == number else None
        return pass_values(grades_of(point, samples), number) if number <= samples else None

    def value(cell: CellResult) -> float | None:
        found = problems(cell, cell.curve[-1])
        return None if found is None else float(found.mean())

    header = f"{kind}@{number}"
    return Measure(name=name, header=header, value=value, problems=problems, percent=True, digits=1)


def _number(values: Mapping[str, Any], key: str) -> float | None:
    found = values.get(key)
    return None if found is None else float(found)


def _trained(cell: CellResult, key: str) -> float | None:
    """Return a number of the last point of a training; a baseline has none."""
    return None if cell.cell.get("baseline") is not None else float(getattr(cell.curve[-1], key))


def _rate(cell: CellResult) -> float | None:
    tokens, seconds = _trained(cell, "tokens"), _trained(cell, "seconds")
    return tokens / seconds if tokens is not None and seconds else None


def _hours(cell: CellResult) -> float | None:
    seconds = _trained(cell, "seconds")
    return None if seconds is None else seconds / 3600


def _memory(worker: str) -> Callable[[CellResult], float | None]:
    return lambda cell: _number(cell.totals.get("peak_memory_gb") or {}, worker)


def _last(key: str) -> Callable[[CellResult], float | None]:
    return lambda cell: getattr(cell.curve[-1], key)


def _cost(name: str, header: str, key: str, digits: int = 0) -> Measure:
    return Measure(name=name, header=header, value=lambda cell: _trained(cell, key), digits=digits)


_SIMPLE: Mapping[str, Measure] = {
    one.name: one
    for one in (
        Measure(name="steps", header="steps", value=lambda cell: _trained(cell, "step"), digits=0),
        _cost("tokens", "tokens", "tokens"),
        _cost("seconds", "seconds", "seconds"),
        Measure(name="tokens_per_second", header="tokens per second", value=_rate, digits=0),
        Measure(name="hours", header="hours", value=_hours, digits=2),
        Measure(name="entropy", header="policy entropy (nats)", value=_last("entropy_mean"), digits=3),
        Measure(
            name="high_entropy_share", header="high-entropy tokens (%)", value=_last("high_entropy_share"),
            percent=True,
        ),
        Measure(
            name="forward_kl_high_entropy", header="forward KL at high entropy (nats)",
            value=_last("forward_kl_high_entropy"), digits=3,
        ),
        Measure(name="truncated", header="truncated (%)", value=_last("truncated"), percent=True),
        Measure(name="response_tokens", header="tokens per response", value=_last("response_tokens_mean")),
        Measure(
            name="student_memory_gb", header="student memory (GB)", value=_memory("student"),
            digits=2,
        ),
        Measure(
            name="teacher_memory_gb", header="teacher memory (GB)", value=_memory("teacher"),
            digits=2,
        ),
    )
}  # fmt: skip
"""The measures without a parameter."""
