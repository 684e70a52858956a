"""The page of an evaluation: scores, and the problems with their samples, with a search and filters. And that of a comparison.

The pages have one script of their own, which hides rows; without it they show everything. It is allowed by its hash, so no text
of a model can run as one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tasks.reports import report_figures as figures
from tasks.reports.pages import render_page
from tasks.storage.cards import CARDS

PAGE = "index.html"
MOST_TEXTS = 2_000
"""Most responses whose text is shown; the others are counted on the page and are in samples.parquet."""
_SCRIPT = "evaluation.js"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSample:
    """One sample of a problem."""

    text: str
    answer: str | None
    correct: bool | None
    math_verify: bool | None
    tokens: int
    truncated: bool
    finish_reason: str

    @property
    def marks(self) -> str:
        """The filters that show this sample."""
        found = {
            "wrong": self.correct is False, "disagreement": self.math_verify is not None and self.math_verify != self.correct,
            "truncated": self.truncated, "unparsed": self.correct is not None and self.answer is None,
        }  # fmt: skip
        return " ".join(name for name, holds in found.items() if holds)

    @property
    def priority(self) -> int:
        """Which texts are shown first, if not all are: those that the graders disagree on, truncated ones, wrong ones."""
        marks = self.marks
        return next(
            (place for place, name in enumerate(("disagreement", "truncated", "wrong")) if name in marks), 3
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownProblem:
    """One problem with its samples."""

    id: str
    text: str
    answer: str | None
    contaminated: bool
    samples: tuple[ShownSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """Input of the page. `numbers` is the content of metrics.json."""

    numbers: Mapping[str, Any]
    problems: tuple[ShownProblem, ...]


def render_evaluation(report: EvaluationReport) -> str:
    """Return the page as HTML. The same data give the same bytes."""
    with_text = _with_text(report.problems)
    rows = [
        (
            problem,
            [(number, sample, (place, number) in with_text) for number, sample in enumerate(problem.samples)],
            " ".join(sorted({mark for sample in problem.samples for mark in sample.marks.split()})),
        )
        for place, problem in enumerate(report.problems)
    ]
    return _page(
        "evaluation.html.j2",
        {
            "numbers": report.numbers, "scores": score_rows(report.numbers["scores"]), "rows": rows,
            "seeds": report.numbers["scores"].get("seeds"), "second": report.numbers.get("math_verify"),
            "overlap": report.numbers.get("contamination"), "texts": len(with_text),
            "samples": sum(len(problem.samples) for problem in report.problems),
        },
    )  # fmt: skip


def _with_text(problems: Sequence[ShownProblem]) -> set[tuple[int, int]]:
    """Return (problem, sample) of the responses that are shown: at most `MOST_TEXTS`, by priority."""
    every = [
        (sample.priority, number, place)
        for place, problem in enumerate(problems)
        for number, sample in enumerate(problem.samples)
    ]
    return {(place, number) for _, number, place in sorted(every)[:MOST_TEXTS]}


def score_rows(scores: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the scores that have an interval, as (name, estimate)."""
    return [(name, value) for name, value in scores.items() if name != "seeds"]


def render_comparison(
    first: str, second: str, rows: Sequence[Mapping[str, Any]], skipped: Sequence[str]
) -> str:
    """Return the page of a paired comparison: a table, and a figure of the differences with their intervals."""
    found = [row["difference"] for row in rows]
    limit = max([0.01, *(abs(one[end]) for one in found for end in ("low", "high"))])
    lines = [
        ("kept", str(row["name"]), 100 * one["value"], 100 * one["low"], 100 * one["high"])
        for row, one in zip(rows, found, strict=True)
    ]
    figure = figures.interval_rows(lines, title="Difference in points", axis=(-100 * limit, 100 * limit))
    values = {"first": first, "second": second, "rows": rows, "skipped": skipped, "figure": figure}
    return _page("comparison.html.j2", values)


def _page(template: str, values: Mapping[str, Any]) -> str:
    script = (CARDS / _SCRIPT).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render_page(template, {**values, "script": Markup(script), "script_hash": digest})
