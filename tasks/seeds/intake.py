"""Checks and counts of rows that were just loaded: too long, duplicate, benchmark problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from prompts import MAX_VALUE_CHARS
from tasks.config import AggregateSettings
from tasks.rows import Problem, Reason, Reject
from tasks.seeds.kinds import Loaded, SeedOutcome
from tasks.text import counted, words


def curated_first(settings: AggregateSettings) -> list[Any]:
    """Return the sources in the order of the config, curated ones first."""
    return sorted(settings.sources, key=lambda source: source.role != "curated")


def counts(name: str, loaded: Loaded) -> dict[str, Any]:
    """Return the counts of one source: rows read, problems, target (None: all), and rejected rows by reason."""
    dropped = Counter(str(row.reason) for row in loaded.outcomes if isinstance(row, Reject))
    return {
        "source": name,
        "seen": loaded.seen,
        "problems": loaded.problems,
        "target": loaded.target,
        "dropped": dict(sorted(dropped.items())),
    }


def account(name: str, loaded: Loaded) -> str:
    """Return the counts of one source as a log line, including a shortfall against its target."""
    numbers = counts(name, loaded)
    dropped = ", ".join(f"{n:,} {words(reason)}" for reason, n in numbers["dropped"].items()) or "none"
    short = f", {loaded.shortfall:,} fewer than its target of {loaded.target:,}" if loaded.shortfall else ""
    return f"{name}: {counted(loaded.seen, 'row')} read, {counted(loaded.problems, 'problem')}{short}; rejected: {dropped}"


def flagged(rows: Sequence[SeedOutcome], not_evaluated: Collection[str] = ()) -> Sequence[SeedOutcome]:
    """Return the rows, with every problem marked as a benchmark problem if any copy of its text is one.

    The marks of sources in `not_evaluated` are removed first.
    """
    rows = [
        replace(row, benchmark_root=False)
        if isinstance(row, Problem) and row.source in not_evaluated
        else row
        for row in rows
    ]
    problems = [row for row in rows if isinstance(row, Problem)]
    benchmark = {text_key(row.text) for row in problems if row.benchmark_root}

    def marked(row: SeedOutcome) -> SeedOutcome:
        if isinstance(row, Problem) and not row.benchmark_root and text_key(row.text) in benchmark:
            return replace(row, benchmark_root=True)
        return row

    return [marked(row) for row in rows] if benchmark else rows


def text_key(text: str) -> str:
    """Return a key that is equal for texts that differ in case and spacing only."""
    return " ".join(text.lower().split())


def too_long(rows: Sequence[SeedOutcome]) -> dict[int, Reject]:
    """Return a reject, by position, for every problem that is too long for a prompt."""
    return {
        position: Reject(
            problem_id=row.id,
            stage="aggregate",
            reason=Reason.TOO_LONG,
            text=row.text[:2000],
            detail=f"{len(row.text):,} characters, a prompt takes {MAX_VALUE_CHARS:,}",
        )
        for position, row in enumerate(rows)
        if isinstance(row, Problem) and len(row.text) > MAX_VALUE_CHARS
    }


def duplicates(rows: Sequence[SeedOutcome]) -> dict[int, Reject]:
    """Return a reject, by position, for every problem whose text (ignoring case and spacing) occurred before."""
    seen: dict[str, Problem] = {}
    rejected = {}
    for position, row in enumerate(rows):
        if isinstance(row, Reject):
            continue
        first = seen.setdefault(text_key(row.text), row)
        if first is not row:
            rejected[position] = Reject(
                problem_id=row.id, stage="aggregate", reason=Reason.EXACT_DUPLICATE,
                detail=f"same text as {first.id} ({first.source} {first.source_id})", text=row.text[:2000],
            )  # fmt: skip
    return rejected
