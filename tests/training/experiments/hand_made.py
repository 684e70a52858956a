"""Hand-made results of cells, for tables without a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from training.experiments.cell import Cell
from training.experiments.grid import Experiment, load_experiment, row_cells
from training.experiments.stored import CellResult, Point

EVALUATION = {"problems": 6, "problems_digest": "9f", "samples": 4, "temperature": 1.0, "top_p": 1.0}
ROWS = [
    {"label": "Student (base)", "baseline": "student"},
    {"label": "OPD", "algorithm": "opd"},
    {"label": "UOPD", "algorithm": "uopd"},
    {"label": "k | 128", "algorithm": "uopd", "changes": {"algorithm.top_k": 128}},
]
"""The default rows; the bar in a label must not end a column of a table."""


def experiment(folder: Path, **changes: Any) -> Experiment:
    """Return an experiment that was written to a file and read."""
    data = {
        "title": "A table",
        "source": "a paper",
        "profile": "pocket",
        "seeds": [0, 1, 2],
        "rows": ROWS,
        "columns": ["avg_at_4", "pass_at_2"],
        "compare_to": "OPD",
        **changes,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return load_experiment(path)


def result(cell: Cell, *correct: str, **changes: Any) -> CellResult:
    """Return the result of a cell whose curve has these grades, ten steps, 1,000 tokens and 50 seconds apart."""
    given: dict[str, Any] = {
        "key": cell.key,
        "fingerprint": "ab" * 8,
        "cell": asdict(cell),
        "dataset": {"name": "default/train", "digest": "d1", "rows": 480, "labels": None, "solutions": None},
        "versions": {"cell": 1},
        "commit": "c" * 40,
        "command": "make experiment NAME=pocket/x",
        "machine": "cpu, 2 cores",
        "evaluation": EVALUATION,
        "curve": tuple(
            Point(step=10 * n, tokens=1000 * n + 7 * cell.seed, seconds=50.0 * n + cell.seed, correct=one)
            for n, one in enumerate(correct)
        ),
        **changes,
    }
    return CellResult(**given)


def results(
    made: Experiment, grades: Mapping[str, Sequence[Sequence[str]]], **changes: Any
) -> dict[str, CellResult]:
    """Return results by key: for each label one curve per seed, in the order of the seeds; further seeds are missing."""
    found = {}
    for row in made.rows:
        for cell, curve in zip(row_cells(made, row), grades.get(row.label, ()), strict=False):
            found[cell.key] = result(cell, *curve, **changes)
    return found
