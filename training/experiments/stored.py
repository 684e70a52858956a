"""Results of cells: one file each, `results/cells/KEY.json`, at most 20 kB, which several machines can add to one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import UserError
from tasks.identity import canonical_json
from tasks.storage.disk import atomic_write
from training.experiments.cell import Cell

__all__ = ["FORMAT", "CellResult", "Point", "grades_of", "read_cell", "read_cells", "write_cell"]

FORMAT = 1
MAX_BYTES = 20_000
MAX_SAMPLES = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """An evaluation of the student after `step` steps.

    `tokens`: response tokens of the steps so far; `seconds`: of the steps, without evaluations. `correct`: one digit for each
    held-out problem, the number of its correct samples. The other values are of the evaluation's samples: the mean of the
    student's entropy (nats), the share of tokens where it is at least `training.progress.HIGH_ENTROPY`, the mean forward KL from
    the teacher (nats) over the tokens where the teacher's entropy is at least `training.teacher_divergence.TEACHER_HIGH_ENTROPY`,
    the share of truncated responses and the mean of their tokens; None where not measured.
    """

    step: int
    tokens: int
    seconds: float
    correct: str
    entropy_mean: float | None = None
    high_entropy_share: float | None = None
    forward_kl_high_entropy: float | None = None
    truncated: float | None = None
    response_tokens_mean: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What a cell measured. `fingerprint` identifies the run with its dataset, models and problems; `cell`, `dataset`,
    `versions`, `evaluation` and `totals` are described in docs/cells.md. `curve`: the evaluations in order, the first
    before the training. `metrics`: means over the last steps. `ended`: what ended the training, None for a baseline."""

    key: str
    fingerprint: str
    cell: Mapping[str, Any]
    dataset: Mapping[str, Any]
    versions: Mapping[str, Any]
    commit: str | None
    command: str
    machine: str
    evaluation: Mapping[str, Any]
    curve: tuple[Point, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    totals: Mapping[str, Any] = field(default_factory=dict)
    ended: str | None = None

    def as_cell(self) -> Cell:
        """Return the cell that was measured."""
        return Cell(**self.cell)


def grades_of(point: Point, samples: int) -> NDArray[np.bool_]:
    """Return whether each sample is correct, [problems, samples], the correct ones first: what `training.evaluation.statistics`
    reads, which does not depend on the order of samples."""
    correct = np.array([int(digit) for digit in point.correct])
    return np.arange(samples)[None, :] < correct[:, None]


def counts(grades: Sequence[Sequence[bool]]) -> str:
    """Return the number of correct samples of each problem, as one digit. Raises `UserError` for more than nine samples."""
    if max((len(row) for row in grades), default=0) > MAX_SAMPLES:
        raise UserError(
            f"evaluation.samples is above {MAX_SAMPLES}, but a cell stores one digit for each problem: lower it"
        )
    return "".join(str(sum(row)) for row in grades)


def write_cell(folder: Path, result: CellResult) -> Path:
    """Write the result of a cell, whole or not at all. Raises `UserError` if it is larger than 20 kB."""
    text = canonical_json({"format": FORMAT, **asdict(result)}) + "\n"
    if len(text) > MAX_BYTES:
        raise UserError(
            f"the result of cell {result.key} has {len(text):,} bytes, at most {MAX_BYTES:,} are stored: raise"
            " evaluation.every_steps, or evaluate fewer problems"
        )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / f"{result.key}.json", text)
    return folder / f"{result.key}.json"


def read_cells(folder: Path) -> dict[str, CellResult]:
    """Return the results in a folder by key, sorted; none if it does not exist. Raises `UserError` for a damaged file."""
    found = (read_cell(path) for path in sorted(folder.glob("*.json")))
    return {result.key: result for result in found}


def read_cell(path: Path) -> CellResult:
    """Read the result of a cell. Raises `UserError` if it is damaged, or was written by a later version."""
    try:
        data = json.loads(path.read_bytes())
        written = data.pop("format")
        if written != FORMAT:
            raise UserError(
                f"{path} has format {written}, this version reads {FORMAT}: update, or delete the file"
            )
        result = CellResult(**{**data, "curve": tuple(Point(**point) for point in data["curve"])})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the result of a cell ({error}): restore it, or delete it") from error
    if path.stem != result.key or not result.curve:
        raise UserError(f"{path} is the result of cell {result.key}: restore the file, or delete it")
    return result
