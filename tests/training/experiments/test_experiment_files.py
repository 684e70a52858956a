"""Every file of configs/experiments resolves to runs that their algorithms accept, and the two editions have the same table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.config import PROJECT_ROOT
from tasks.runtime.training_run import run_config
from training.experiments.columns import measure_of
from training.experiments.grid import EXPERIMENTS, Experiment, cells_of, load_experiment, row_cells
from training.plan import resolve
from training.preflight.algorithm_checks import algorithm_problems

FILES = sorted((PROJECT_ROOT / EXPERIMENTS).rglob("*.yaml"))
FURTHER_MODELS = {
    "eopd-main-0.6b": "eopd-main",
    "eopd-main-4b": "eopd-main",
    "eopd-main-llama-3b": "eopd-main",
    "pw-opsd-main-deepseek-8b": "pw-opsd-main",
    "pw-opsd-main-olmo-7b": "pw-opsd-main",
    "uopd-main-4b": "uopd-main",
    "uopd-main-8b-30b": "uopd-main",
}
"""Tables of the paper edition for models that the pocket world does not have, and the table that they repeat."""
POCKET_ONLY = {"learning", "routing", "wrong-half"}


def edition(name: str) -> dict[str, Experiment]:
    return {path.stem: load_experiment(path) for path in FILES if path.parent.name == name}


def keys(experiment: Experiment) -> set[str]:
    """Return the keys of the cells of the first seed."""
    return {cell.key for cell in cells_of(experiment.model_copy(update={"seeds": experiment.seeds[:1]}))}


def shape(experiment: Experiment) -> tuple[object, ...]:
    """Return what both editions have in common; published values belong to one of several models."""
    rows = tuple((row.label, row.algorithm, row.baseline) for row in experiment.rows)
    return rows, experiment.columns, experiment.compare_to, experiment.views


def resolved(experiment: Experiment) -> Iterator[tuple[str, list[str]]]:
    """Resolve the runs of the first seed: label, and what the algorithm has against the settings."""
    for row in experiment.rows:
        run = run_config(row_cells(experiment, row)[0].settings(), Path("dataset"), Path("folder"))
        assert run.evaluation is not None and run.evaluation.samples <= 9, row.label
        yield row.label, [] if row.algorithm is None else algorithm_problems(resolve(run))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_row_is_a_run_that_its_algorithm_accepts(path: Path) -> None:
    experiment = load_experiment(path)
    assert {label: found for label, found in resolved(experiment) if found} == {}
    for name in experiment.columns:
        measure_of(name)


def test_both_editions_have_the_same_rows_and_columns() -> None:
    paper, pocket = edition("paper"), edition("pocket")
    assert paper.keys() - FURTHER_MODELS.keys() == pocket.keys() - POCKET_ONLY
    for name, experiment in paper.items():
        assert shape(experiment) == shape(pocket[FURTHER_MODELS.get(name, name)]), name


def test_the_pocket_edition_shares_its_cells() -> None:
    cells = {name: keys(experiment) for name, experiment in edition("pocket").items()}
    shared = {name: len(cells["learning"] & one) for name, one in cells.items()}
    assert shared["uopd-main"] == 6  # all but the row with gold labels only
    assert (shared["eopd-main"], shared["core-main"], shared["pw-opsd-main"]) == (7, 4, 3)
    ablations = ("weighting", "controls", "samples", "top-k", "group-size")
    assert [shared[f"uopd-{name}"] for name in ablations] == [2, 2, 1, 1, 1]
    assert (shared["pw-opsd-schedules"], shared["pw-opsd-2x2"]) == (1, 1)
    assert len(cells["pw-opsd-schedules"] & cells["pw-opsd-main"]) == 2
    assert cells["uopd-cost"] | cells["uopd-convergence"] <= cells["uopd-main"]
    assert cells["eopd-entropy"] | cells["eopd-pass-k"] <= cells["eopd-main"]
    assert cells["core-cost"] | cells["core-correct-share"] <= cells["core-main"]


def test_published_values_are_those_of_the_papers() -> None:
    paper = edition("paper")
    assert paper["pw-opsd-main"].published["PW-OPSD, moderate"] == {
        "MATH-500 avg@12": 95.34, "AIME 2024 avg@12": 76.20, "AIME 2025 avg@12": 67.78, "HMMT Feb 2025 avg@12": 43.33,
    }  # fmt: skip
    gains = {name: paper[name].published["EOPD"] for name in ("eopd-main-0.6b", "eopd-main", "eopd-main-4b")}
    assert [list(values.values()) for values in gains.values()] == [[1.16, 1.37], [0.99, 2.39], [1.80, 5.05]]
