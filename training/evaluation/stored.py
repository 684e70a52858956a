"""Evaluations stored in a run's folder, `evaluations/step-<n>.json`, so that a continued run does not repeat them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tasks.storage.checksums import Damaged, sealed, unsealed
from tasks.storage.disk import atomic_write
from tasks.storage.evaluations import EVALUATIONS
from training.evaluation.history import Evaluation, described
from training.evaluation.metrics import Grades

__all__ = ["stored_or_new"]


def stored_or_new(folder: Path, step: int, weights: str, evaluate: Callable[[], Grades]) -> Evaluation:
    """Return the evaluation after `step` steps that is stored in the run's folder, or else evaluate and store it.

    An evaluation of other weights is repeated: a continued run does steps again, and on a GPU may get other weights.
    """
    path = folder / EVALUATIONS / f"step-{step:08d}.json"
    found = _read(path)
    if found is None or (found.step, found.weights) != (step, weights):
        found = Evaluation(step=step, weights=weights, grades=evaluate())
        (values,) = described([found])
        atomic_write(path, json.dumps(sealed({**found.to_json(), "values": values})) + "\n")
    return found


def _read(path: Path) -> Evaluation | None:
    """Return the evaluation in a file; None if there is no file or it is damaged."""
    try:
        return Evaluation.from_json(unsealed(path.read_bytes()))
    except (FileNotFoundError, Damaged, KeyError):
        return None
