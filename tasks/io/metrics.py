"""metrics.jsonl of a training run: one flat row of numbers for each step, written by the run and read by whoever looks."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["METRICS", "read_metrics"]

METRICS = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows that a run has written into its folder so far, by step; a torn last line is left out."""
    path = folder / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
