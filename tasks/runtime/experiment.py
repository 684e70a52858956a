"""The job of an experiment: its command, its errors, and the table of its cells."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import UserError
from tasks.processes.jobs import JobFailed
from tasks.storage.cards import escape_markdown

PROBLEMS, STATE = "problems.txt", "state.json"
"""Files that the job writes: what the user can fix, and the state of every cell."""
FAILED, LEFT = "failed", "left"


def command(
    experiment: str,
    report: Path,
    *,
    only: Sequence[str],
    seeds: Sequence[int],
    max_hours: float | None,
    results: str,
) -> list[str]:
    """Return the command that runs an experiment and writes its state into the folder `report`."""
    found = [sys.executable, "-m", "training.experiments", "--report", str(report), "--results", results]
    found += [] if max_hours is None else ["--max-hours", f"{max_hours:g}"]
    found += ["--only", *only] if only else []
    found += ["--seeds", *map(str, seeds)] if seeds else []
    return [*found, "--", experiment]


def table(report: Path) -> list[dict[str, str]]:
    """Return the state of every cell as text. The UI renders cells as Markdown, so texts are escaped."""
    return [
        {name: escape_markdown(str(value)) for name, value in row.items()} for row in _state(report)["cells"]
    ]


def done(report: Path) -> tuple[int, int]:
    """Return the number of cells that have an outcome, and of all."""
    rows = _state(report)["cells"]
    return sum(row["state"] not in ("waiting", "running") for row in rows), len(rows)


@contextmanager
def job_failed_as_user_error(report: Path) -> Iterator[None]:
    """Convert a `JobFailed` of the block to a `UserError` with what the job wrote: what the user can fix, or the cells without a
    result."""
    for name in (PROBLEMS, STATE):
        (report / name).unlink(missing_ok=True)  # of an earlier start
    try:
        yield
    except JobFailed as error:
        if (report / PROBLEMS).exists():
            raise UserError((report / PROBLEMS).read_text(encoding="utf-8").strip()) from error
        lacking = [row for row in _state(report)["cells"] if row["state"] in (FAILED, LEFT)]
        if not lacking:
            raise
        listed = "; ".join(
            f"{row['row']}, seed {row['seed']}: {row['state']}, {row['result']}" for row in lacking
        )
        raise UserError(
            f"{len(lacking)} of {done(report)[1]} cells have no result ({listed}): correct what they name, and start again; the"
            " other results are kept"
        ) from error


def _state(report: Path) -> dict[str, list[dict[str, str]]]:
    try:
        return json.loads((report / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"cells": []}
