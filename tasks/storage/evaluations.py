"""Evaluations of a training run: `evaluations/step-<n>.json`, with their `measures`."""

from __future__ import annotations

from pathlib import Path

from tasks.storage.checksums import Damaged, unsealed

__all__ = ["EVALUATIONS", "read_evaluations"]

EVALUATIONS = "evaluations"


def read_evaluations(folder: Path) -> list[dict[str, float]]:
    """Return step and measures of the evaluations that a run has written to its folder so far, in step order. Damaged files, and
    those of earlier versions without measures, are left out."""
    found = []
    for path in sorted((folder / EVALUATIONS).glob("step-*.json")):
        try:
            found.append(unsealed(path.read_bytes())["measures"])
        except (OSError, Damaged, KeyError):
            continue
    return found
