"""Three tables, recomputed from the cell files by separate code: JSON, the digits of `correct`, and numpy."""

from __future__ import annotations

import csv
import io
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.experiments.hand_made import EVALUATION, experiment, results
from training.experiments.grid import Experiment
from training.experiments.rendering import csv_table
from training.experiments.stored import read_cells, write_cell
from training.experiments.summary import make_table

PROBLEMS, SAMPLES = 40, 8
TABLES: dict[str, dict[str, Any]] = {
    "main": {
        "rows": [
            {"label": "base", "baseline": "student"},
            {"label": "OPD", "algorithm": "opd"},
            {"label": "UOPD", "algorithm": "uopd"},
        ],
        "compare_to": "OPD",
    },
    "k": {
        "rows": [
            {"label": str(k), "algorithm": "uopd", "changes": {"algorithm.top_k": k}}
            for k in (16, 64, 256, "full")
        ],
        "compare_to": "64",
    },
    "schedules": {
        "rows": [
            {"label": name, "algorithm": "pw_opsd", "changes": {"algorithm.position_schedule": name}}
            for name in ("uniform", "mild", "sharp")
        ],
        "compare_to": "uniform",
    },
}


def drawn(made: Experiment, seed: int) -> dict[str, list[tuple[str, str]]]:
    """Return curves of two points for each row: the rows differ in how often their samples are correct."""
    rng = np.random.default_rng(seed)
    found = {}
    for place, row in enumerate(made.rows):
        chance = np.clip(rng.beta(2, 2, PROBLEMS) + 0.1 * place, 0, 1)
        counts = [["".join(map(str, rng.binomial(SAMPLES, chance))) for _ in range(2)] for _ in made.seeds]
        found[row.label] = [(first, last) for first, last in counts]
    found[made.rows[-1].label].pop()  # one cell is missing
    return found


# --- the other implementation ------------------------------------------------------------------------------------


def final_counts(folder: Path, algorithm: str | None, changes: dict[str, Any]) -> dict[int, np.ndarray]:
    """Return the last `correct` of the files of a row, by seed."""
    found = {}
    for path in folder.iterdir():
        data = json.loads(path.read_text())
        cell = data["cell"]
        if (cell["algorithm"], cell["changes"]) == (algorithm, changes):
            found[cell["seed"]] = np.array([int(digit) for digit in data["curve"][-1]["correct"]])
    return found


def by_enumeration(count: int, k: int) -> float:
    """Return pass@k of a problem with so many correct ones of 8 samples, over all choices of k samples."""
    samples = [True] * count + [False] * (SAMPLES - count)
    return float(np.mean([any(chosen) for chosen in combinations(samples, k)]))


def score(counts: np.ndarray, column: str) -> np.ndarray:
    if column == "avg_at_8":
        return counts / SAMPLES
    return np.array([by_enumeration(int(count), int(column.rpartition("_")[2])) for count in counts])


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the percentile interval of the mean over problems, 2,000 resamples of the generator of seed 0."""
    rng = np.random.default_rng(0)
    chosen = np.vstack([rng.integers(0, PROBLEMS, (2000, PROBLEMS))])
    low, high = np.quantile(differences[chosen].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_other_code_computes_from_the_files(name: str, tmp_path: Path) -> None:
    columns = ["avg_at_8", "pass_at_1", "pass_at_3", "pass_at_8"]
    made = experiment(tmp_path, columns=columns, **TABLES[name])
    evaluation = {**EVALUATION, "problems": PROBLEMS, "samples": SAMPLES}
    folder = tmp_path / "cells"
    for result in results(made, drawn(made, len(name)), evaluation=evaluation).values():
        write_cell(folder, result)
    text = csv_table(make_table(made, read_cells(folder)))
    table = {(row["method"], row["column"]): row for row in csv.DictReader(io.StringIO(text))}
    (reference,) = (row for row in made.rows if row.label == made.compare_to)
    other = final_counts(folder, reference.algorithm, dict(reference.changes))
    for row in made.rows:
        cells = final_counts(folder, row.algorithm, dict(row.changes))
        assert len(cells) == (1 if row.baseline else 2 if row is made.rows[-1] else 3)
        for column in columns:
            found = table[row.label, column]
            means = [score(counts, column).mean() for counts in cells.values()]
            assert float(found["mean"]) == pytest.approx(np.mean(means), abs=1e-12)
            if len(means) > 1:
                assert float(found["deviation"]) == pytest.approx(np.std(means, ddof=1), abs=1e-12)
            if row is reference:
                continue
            pairs = [
                (cells.get(seed, cells[0]), other[seed]) for seed in other if seed in cells or row.baseline
            ]
            gaps = np.mean([score(own, column) - score(its, column) for own, its in pairs], axis=0)
            low, high = interval(gaps)
            assert float(found["difference"]) == pytest.approx(gaps.mean(), abs=1e-12)
            assert (float(found["low"]), float(found["high"])) == pytest.approx((low, high), abs=1e-12)
