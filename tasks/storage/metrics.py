"""metrics.jsonl of a training run: one flat JSON object of numbers per step."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["METRICS", "read_metrics"]

METRICS = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows that a run has written to its folder so far, in step order; an incomplete last line is ignored."""
    path = folder / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
