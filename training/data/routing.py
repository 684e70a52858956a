"""Which of several teachers teaches each prompt: from their weights of the prompts, or from a column of the dataset. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import UserError
from tasks.identity import canonical_json
from tasks.text import counted
from training.config import DatasetSettings, RunConfig, project_path
from training.data.rows import Dataset, TrainingRow, dataset_files, read_dataset
from training.losses.prompt_weights import Floats
from training.teacher_settings import ColumnRouting, RoutedTeacher

__all__ = ["Annotations", "Routing", "highest_weight", "in_proportion", "named", "read_annotations", "route"]

SHOWN = 3
"""How many of the rows that do not fit are named."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Routing:
    """The teachers of the training rows. `shares` float64 [rows, teachers]: the share of each teacher in the loss of a row, with
    sum 1; a single teacher has 1. `weights` float64 [rows, teachers]: the weights that the teachers' annotations give the row,
    NaN where there is none."""

    names: tuple[str, ...]
    shares: Floats
    weights: Floats

    def select(self, indices: Sequence[int]) -> Routing:
        """Return the routing of some of the rows."""
        chosen = list(indices)
        return replace(self, shares=self.shares[chosen], weights=self.weights[chosen])

    def digest(self) -> str:
        """Return the SHA-256 (hex) of names and shares."""
        return hashlib.sha256(canonical_json([self.names, self.shares.tolist()]).encode("ascii")).hexdigest()

    def summary(self, rows: Sequence[int] | None = None) -> dict[str, dict[str, float]]:
        """Return for each teacher by name `share`, its mean share in the given rows (default: all), and `weight`, the mean of its
        weight in the rows that it teaches, by its share in each; without it for a teacher that teaches none or has no weights."""
        shares = self.shares if rows is None else self.shares[list(rows)]
        weights = self.weights if rows is None else self.weights[list(rows)]
        found: dict[str, dict[str, float]] = {}
        for number, name in enumerate(self.names):
            share, taught = shares[:, number], shares[:, number] > 0
            found[name] = {"share": float(share.mean())}
            if taught.any() and np.isfinite(weights[taught, number]).all():
                mean = np.average(weights[taught, number], weights=share[taught])
                found[name]["weight"] = float(mean)
        return found


# --- the choice --------------------------------------------------------------------------------------------------


def highest_weight(weights: Floats) -> Floats:
    """Return the shares [rows, teachers] that are 1 for the teacher with the highest weight, the first of equal ones."""
    shares = np.zeros_like(weights)
    shares[np.arange(len(weights)), weights.argmax(1)] = 1.0
    return shares


def in_proportion(weights: Floats) -> Floats:
    """Return the weights over their sum in each row; equal shares where all of them are 0."""
    totals = weights.sum(1, keepdims=True)
    equal = np.full_like(weights, 1.0 / weights.shape[1])
    return np.divide(weights, totals, out=equal, where=totals > 0)


def named(names: Sequence[str], values: Mapping[str, Any], ids: Sequence[str], column: str) -> Floats:
    """Return the shares that are 1 for the teacher whose name is the value of a row. `values`: by row id. Raises `UserError`,
    naming rows, for a value that is no teacher's name."""
    wrong = [row for row in ids if values[row] not in names]
    if wrong:
        raise UserError(
            f"routing.column: {_listed(wrong)} in column {column!r} have other values than the names in teachers"
            f" ({', '.join(names)}), such as {values[wrong[0]]!r}: correct the column"
        )
    shares = np.zeros((len(ids), len(names)))
    shares[np.arange(len(ids)), [list(names).index(values[row]) for row in ids]] = 1.0
    return shares


# --- the annotations ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """The dataset as each teacher annotated it, one for each teacher; None for a teacher with a column of weights, which no
    manifest describes. `extra`: the values of the columns of weights and of the routing by name, and in them by row id."""

    datasets: tuple[Dataset | None, ...]
    extra: Mapping[str, Mapping[str, Any]]


def read_annotations(run: RunConfig, data: Dataset) -> Annotations:
    """Read the annotations of the run's teachers. Raises the errors of `read_dataset`, and `UserError` for a source or a column
    that does not exist."""
    if data.folder is None:
        raise UserError("dataset.source has no annotation, which teachers needs: set dataset.folder")
    wanted = [one.weight_column for one in run.teachers if one.weight_column is not None]
    if isinstance(run.routing, ColumnRouting):
        wanted.append(run.routing.column)
    return Annotations(
        datasets=tuple(_annotation(one, run.dataset, data) for one in run.teachers),
        extra={} if not wanted else _columns(run.dataset, list(dict.fromkeys(wanted))),
    )


def _annotation(teacher: RoutedTeacher, settings: DatasetSettings, data: Dataset) -> Dataset | None:
    if teacher.weight_column is not None:
        return None
    if teacher.annotation is None:
        return data
    try:
        return read_dataset(settings.model_copy(update={"folder": teacher.annotation}))
    except UserError as error:
        raise UserError(f"teachers.{teacher.name}.annotation: {error}") from error


def _columns(settings: DatasetSettings, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the values of columns of the dataset by name and row id."""
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    assert settings.folder is not None
    for path in dataset_files(settings.folder, settings):
        try:
            missing = [name for name in names if name not in pq.read_schema(path).names]
            if missing:
                raise UserError(
                    f"{path} has no column {missing[0]!r}, which teachers or routing name: correct its name"
                )
            records = pq.read_table(path, columns=["id", *names], use_threads=False).to_pylist()
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} cannot be read ({reason}): export the dataset again") from error
        for name in names:
            found[name] |= {str(record["id"]): record[name] for record in records}
    return found


# --- for a run ---------------------------------------------------------------------------------------------------


def route(
    run: RunConfig, rows: Sequence[TrainingRow], annotations: Annotations
) -> tuple[tuple[TrainingRow, ...], Routing]:
    """Return the rows with the weight, the entropy and the pass rate of the teacher that teaches each, or with their means over
    several teachers by their shares, and the routing.

    Raises `UserError`, naming rows, if an annotation lacks problems or has other texts, or a weight is missing or invalid.
    """
    assert run.routing is not None
    given = [
        _annotated(one, rows, dataset, annotations)
        for one, dataset in zip(run.teachers, annotations.datasets, strict=True)
    ]
    weights = np.array(
        [[np.nan if one.weight is None else one.weight for one in teacher] for teacher in given]
    ).T
    names = tuple(one.name for one in run.teachers)
    if isinstance(run.routing, ColumnRouting):
        column, ids = run.routing.column, [row.id for row in rows]
        shares = named(names, annotations.extra[column], ids, column)
    else:
        _check_weights(names, weights)
        shares = highest_weight(weights) if run.routing.kind == "lowest_entropy" else in_proportion(weights)
    taught = tuple(
        _taught(row, [teacher[index] for teacher in given], shares[index]) for index, row in enumerate(rows)
    )
    return taught, Routing(names=names, shares=shares, weights=weights)


def _check_weights(names: Sequence[str], weights: Floats) -> None:
    without = np.flatnonzero(np.isnan(weights).any(0))
    if len(without):
        raise UserError(
            f"the annotation of teacher {names[without[0]]} has no column weight, which the routing compares: annotate the"
            " problems (make annotate), or set routing.kind to column"
        )


def _annotated(
    teacher: RoutedTeacher,
    rows: Sequence[TrainingRow],
    dataset: Dataset | None,
    annotations: Annotations,
) -> Sequence[TrainingRow]:
    """Return the rows as the teacher annotated them, in the same order."""
    if dataset is None:
        values = annotations.extra[str(teacher.weight_column)]
        return [_with_weight(teacher, row, values[row.id]) for row in rows]
    theirs = {row.id: row for row in dataset.rows}
    missing = [row.id for row in rows if row.id not in theirs]
    differing = [row.id for row in rows if row.id in theirs and theirs[row.id].text != row.text]
    for wrong, what in ((missing, "lacks"), (differing, "has another text of")):
        if wrong:
            folder = project_path(teacher.annotation or Path())
            raise UserError(
                f"teachers.{teacher.name}.annotation: {folder} {what} {_listed(wrong)} of the dataset: annotate the same problems"
                " with this teacher (make reannotate)"
            )
    return [theirs[row.id] for row in rows]


def _with_weight(teacher: RoutedTeacher, row: TrainingRow, weight: Any) -> TrainingRow:
    """Return the row with a teacher's weight alone."""
    if not isinstance(weight, int | float) or not 0.0 <= weight <= 1.0:
        raise UserError(
            f"row {row.id} has {weight!r} in column {teacher.weight_column!r}, the weights of teacher {teacher.name}: give a"
            " number from 0 to 1"
        )
    return replace(row, weight=float(weight), semantic_entropy=None, pass_rate=None)


def _taught(row: TrainingRow, given: Sequence[TrainingRow], shares: Floats) -> TrainingRow:
    """Return the row with the values of its teachers' annotations `given`."""
    used = [(share, one) for share, one in zip(shares.tolist(), given, strict=True) if share > 0]
    return replace(
        row,
        weight=_mean([(share, one.weight) for share, one in used], most=1.0),
        semantic_entropy=_mean([(share, one.semantic_entropy) for share, one in used]),
        pass_rate=_mean([(share, one.pass_rate) for share, one in used], most=1.0),
    )


def _mean(values: Sequence[tuple[float, float | None]], most: float = np.inf) -> float | None:
    """Return the sum of share x value; None if a value is missing. At most `most`, which rounding may exceed."""
    total = 0.0
    for share, value in values:
        if value is None:
            return None
        total += share * value
    return min(total, most)


def _listed(ids: Sequence[str]) -> str:
    """Return the number of some rows and the ids of the first."""
    more = ", ..." if len(ids) > SHOWN else ""
    return f"{counted(len(ids), 'row')} ({', '.join(ids[:SHOWN])}{more})"
