"""metrics.jsonl of a training run: one flat JSON object of numbers per step."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.errors import UserError

__all__ = ["METRICS", "read_metrics"]

METRICS = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows that a run has written to its folder so far, in step order; an incomplete last line is ignored.

    Raises `UserError` naming the line if another one is damaged.
    """
    path = folder / METRICS
    lines = path.read_bytes().splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not (isinstance(row, dict) and "step" in row):
                raise ValueError("not a row")
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number} is damaged: correct or delete the line") from error
        rows.append(row)
    return rows
