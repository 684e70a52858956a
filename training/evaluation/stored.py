"""Evaluations stored in a run's folder, `evaluations/step-<n>.json`, so that a continued run does not repeat them. The result, as
every evaluation writes it, is in `evaluations/step-<n>/`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.storage.checksums import Damaged, sealed, unsealed
from tasks.storage.disk import atomic_write
from tasks.storage.evaluations import EVALUATIONS
from training.evaluation.history import Evaluation, Grades, described

__all__ = ["evaluation_file", "result_folder", "stored_evaluations", "stored_or_new"]


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
        (measures,) = described([found])
        atomic_write(path, json.dumps(sealed({**found.to_json(), "measures": measures})) + "\n")
    return found


def result_folder(folder: Path, step: int) -> Path:
    """Return where the result of the evaluation after `step` steps is in a run's folder."""
    return folder / EVALUATIONS / f"step-{step:08d}"


def evaluation_file(folder: Path, step: int) -> Path:
    """Return the file of the evaluation after `step` steps."""
    return result_folder(folder, step).with_suffix(".json")


def stored_evaluations(folder: Path) -> list[Evaluation]:
    """Return the evaluations that are stored in the run's folder, in order."""
    found = (_read(path) for path in sorted((folder / EVALUATIONS).glob("step-*.json")))
    return [one for one in found if one is not None]


def _read(path: Path) -> Evaluation | None:
    """Return the evaluation in a file; None if there is no file or it is damaged."""
    try:
        return Evaluation.from_json(unsealed(path.read_bytes()))
    except (FileNotFoundError, Damaged, KeyError):
        return None
