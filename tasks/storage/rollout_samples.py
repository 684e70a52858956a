"""Tables of sample rollouts of a training run: `rollouts/step-<n>.jsonl`, one JSON object per rollout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.storage.disk import atomic_write

__all__ = ["last_samples", "write_samples"]

SAMPLES = "rollouts"


def write_samples(folder: Path, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table of a step into the run's folder. Characters outside of ASCII, controls among them, are escaped."""
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
    atomic_write(folder / SAMPLES / f"step-{step:08d}.jsonl", "".join(lines))


def last_samples(folder: Path) -> list[dict[str, Any]]:
    """Return the table of the last step that has one; empty without any."""
    found = sorted((folder / SAMPLES).glob("step-*.jsonl"))
    if not found:
        return []
    return [json.loads(line) for line in found[-1].read_text(encoding="utf-8").splitlines()]
