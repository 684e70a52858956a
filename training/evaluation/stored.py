"""Evaluations stored in a run's folder, `evaluations/step-<n>.json`, so that a continued run does not repeat them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.storage.checksums import Damaged, sealed, unsealed
from tasks.storage.disk import atomic_write
from training.evaluation.history import Evaluation
from training.evaluation.metrics import Grades

__all__ = ["evaluation_file", "stored_evaluations", "stored_or_new"]

FOLDER = "evaluations"


def stored_or_new(
    folder: Path, step: int, weights: str, evaluate: Callable[[], tuple[Grades, Mapping[str, float]]]
) -> Evaluation:
    """Return the evaluation after `step` steps that is stored in the run's folder, or else evaluate and store it.

    An evaluation of other weights is repeated: a continued run does steps again, and on a GPU may get other weights.
    """
    path = evaluation_file(folder, step)
    found = _read(path)
    if found is None or (found.step, found.weights) != (step, weights):
        grades, values = evaluate()
        found = Evaluation(step=step, weights=weights, grades=grades, values=values)
        atomic_write(path, json.dumps(sealed(found.to_json())) + "\n")
    return found


def evaluation_file(folder: Path, step: int) -> Path:
    """Return the file of the evaluation after `step` steps."""
    return folder / FOLDER / f"step-{step:08d}.json"


def stored_evaluations(folder: Path) -> list[Evaluation]:
    """Return the evaluations that are stored in the run's folder, in order."""
    found = (_read(path) for path in sorted((folder / FOLDER).glob("step-*.json")))
    return [one for one in found if one is not None]


def _read(path: Path) -> Evaluation | None:
    """Return the evaluation in a file; None if there is no file or it is damaged."""
    try:
        return Evaluation.from_json(unsealed(path.read_bytes()))
    except (FileNotFoundError, Damaged, KeyError):
        return None
