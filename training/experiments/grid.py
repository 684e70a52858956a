"""Experiment files: a table's rows as cells. `configs/experiments/` has them in two editions, `pocket/` and `paper/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, ValidationError, model_validator

from tasks.config import explain
from tasks.errors import UserError
from tasks.settings import Settings
from tasks.text import counted
from tasks.yaml_text import BadYaml, load_yaml
from training.config import project_path
from training.experiments.cell import Baseline, Cell

__all__ = ["EXPERIMENTS", "Experiment", "Row", "cells_of", "experiment_path", "load_experiment", "row_cells"]

EXPERIMENTS = "configs/experiments"
SCHEMA = "training/experiments/grid.py"

TABLE = ("rows", "columns", "compare_to", "views")
"""Fields that an experiment without rows has of its base."""

View = Literal["table", "metrics", "curves", "entropy_curves", "pass_curves", "rows"]
"""A kind of output: the table, the metrics of the last steps, and the figures of `training.experiments.figures`."""


class Row(Settings):
    """A row of the table: an algorithm with changes of dotted settings, or a model that is evaluated without training."""

    label: str = Field(min_length=1)
    algorithm: str | None = None
    baseline: Baseline | None = None
    changes: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> Row:
        if (self.algorithm is None) == (self.baseline is None):
            raise ValueError("give algorithm (a training) or baseline (student or teacher), and not both")
        return self


class Experiment(Settings):
    """A table or figure: its rows, and how its cells are run and shown.

    `source`: the table or figure of a paper that it follows. `base`: another experiment, which gives the profile and the seeds
    unless they are given here, the settings under `common`, and, to an experiment without rows, its table: rows, columns,
    compare_to and views. `common`: dotted settings of every row, under the row's own.
    `columns`: measured values. `compare_to`: the label of the row that the others are compared with. `views`: kinds of output.
    `published`: values of the paper by label and column. `remarks`: paragraphs of Markdown for the page of results, such as the
    reason why a method gains nothing. `max_hours`: the budget of one start of the whole grid.
    """

    title: str
    source: str = ""
    base: str | None = None
    profile: str = "pocket"
    common: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2), min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)
    columns: tuple[str, ...] = ("pass_at_1",)
    compare_to: str | None = None
    views: tuple[View, ...] = ("table",)
    published: dict[str, dict[str, float | str]] = Field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    max_hours: PositiveFloat | None = None

    @model_validator(mode="after")
    def _labels_name_rows(self) -> Experiment:
        labels = [row.label for row in self.rows]
        if twice := next((one for one in labels if labels.count(one) > 1), None):
            raise ValueError(f"two rows have the label {twice!r}: give each its own")
        if divided := next((one for one in labels if ";" in one), None):
            raise ValueError(
                f"the label {divided!r} has a semicolon, which separates the labels in ONLY: write a comma"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds has a number twice: remove one of the two")
        named = [*([] if self.compare_to is None else [self.compare_to]), *self.published]
        if unknown := next((one for one in named if one not in labels), None):
            raise ValueError(
                f"compare_to or published names {unknown!r}, which is the label of no row: correct it"
            )
        return self


def experiment_path(name: str) -> Path:
    """Return the file of an experiment by name (`pocket/learning`) or by path."""
    path = project_path(name)
    return path if path.suffix == ".yaml" else project_path(f"{EXPERIMENTS}/{name}.yaml")


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file. Raises `UserError` that names the file, and the row or the key."""
    data = _read(path)
    if isinstance(data.get("base"), str):
        data = _over_base(path, data)
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise UserError(explain(error, _place(path, data, error), SCHEMA)) from error


def _read(path: Path) -> dict[str, Any]:
    """Return the mapping in an experiment file. Raises `UserError` if it has none."""
    try:
        data = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: {_choice()}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a YAML file with an experiment") from error
    except BadYaml as error:
        raise UserError(f"{path} is not valid YAML, correct it: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a mapping: write title, profile, seeds and rows")
    return data


def cells_of(experiment: Experiment) -> list[Cell]:
    """Return the cells, each once, ordered so that one seed of everything comes before the second seed."""
    of_rows = [row_cells(experiment, row) for row in experiment.rows]
    ordered = [
        cells[place] for place in range(len(experiment.seeds)) for cells in of_rows if place < len(cells)
    ]
    return list({repr(cell): cell for cell in ordered}.values())


def row_cells(experiment: Experiment, row: Row) -> list[Cell]:
    """Return the cells of a row, one for each seed; of a baseline one, because no evaluation depends on a seed."""
    changes = {**experiment.common, **row.changes}
    if row.baseline is not None:
        return [Cell(profile=experiment.profile, baseline=row.baseline, changes=changes)]
    return [
        Cell(profile=experiment.profile, algorithm=row.algorithm, changes=changes, seed=seed)
        for seed in experiment.seeds
    ]


def _over_base(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an experiment with those that its base gives. Raises `UserError` for a wrong base."""
    of = experiment_path(data["base"])
    if not of.is_file():
        raise UserError(f"{path}: base is {data['base']!r}, but {of} does not exist: {_choice()}")
    if (further := _read(of).get("base")) is not None:
        raise UserError(
            f"{path}: base is {data['base']!r}, which has a base itself, {further!r}: name an experiment without one"
        )
    base = load_experiment(of)
    names = ("profile", "seeds", *(() if "rows" in data else TABLE))
    found = {**base.model_dump(include={*names}), **data}
    common = found.setdefault("common", {})
    return {**found, "common": {**base.common, **common}} if isinstance(common, dict) else found


def _place(path: Path, data: dict[str, Any], error: ValidationError) -> str:
    """Return the file, and the label of the row that an error is about."""
    at = error.errors()[0]["loc"]
    rows = data.get("rows")
    if len(at) > 1 and at[0] == "rows" and isinstance(at[1], int) and isinstance(rows, list):
        row = rows[at[1]]
        label = row.get("label") if isinstance(row, dict) else None
        return f"{path} (row {at[1] + 1}{'' if label is None else f', {label!r}'})"
    return str(path)


def _choice() -> str:
    there = sorted(
        one.relative_to(project_path(EXPERIMENTS)).with_suffix("").as_posix()
        for one in project_path(EXPERIMENTS).rglob("*.yaml")
    )
    return f"choose one of the {counted(len(there), 'experiment')} {', '.join(there)}, or give a file"
