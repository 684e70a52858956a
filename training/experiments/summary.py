"""The numbers of an experiment's table, from stored cells only. Pure.

A number is the mean over the seeds of a row with its sample standard deviation. Two rows are compared on the seeds that both
have, paired by held-out problem and seed: the interval is the bootstrap over problems, in which all seeds and samples of a
problem stay together. It covers the choice of problems; the deviation shows the spread over seeds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from tasks.text import counted
from training.evaluation.metrics import Estimate, mean_estimate
from training.evaluation.statistics import spread
from training.experiments.columns import Measure, measure_of, point_values
from training.experiments.grid import Experiment, Row, row_cells
from training.experiments.stored import CellResult

__all__ = ["Line", "Number", "Table", "cells_by_row", "make_table", "paired_difference", "setting_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """The mean of a measure over `found` of `wanted` seeds; `deviation` is None for a single seed. `mean` is None without any."""

    mean: float | None
    deviation: float | None
    found: int
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table. `kind`: published values stand on lines of their own. `differences`: to the row `compare_to`, by
    column. `bold`: the columns in which the line is the best, or not distinguishable from it. `cells`: by seed. `published`: the
    paper's values as it writes them."""

    label: str
    kind: Literal["baseline", "algorithm", "published"]
    setting: str = ""
    numbers: Mapping[str, Number] = field(default_factory=dict)
    differences: Mapping[str, Estimate] = field(default_factory=dict)
    bold: frozenset[str] = frozenset()
    cells: Mapping[int, CellResult] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)

    def sources(self, need: Literal["labels", "solutions"]) -> str:
        """Return where the labels or solutions of the line's cells come from; empty if they use none."""
        found = (str(cell.dataset[need]) for cell in self.cells.values() if cell.dataset.get(need))
        return "; ".join(dict.fromkeys(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The table of an experiment. `measures`: its columns in order. `published`: further columns, of published values only."""

    experiment: Experiment
    measures: tuple[Measure, ...]
    published: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def cells(self) -> dict[str, CellResult]:
        """The cells that the table is made of, by key."""
        return {cell.key: cell for line in self.lines for cell in line.cells.values()}


def make_table(
    experiment: Experiment, results: Mapping[str, CellResult], measures: tuple[Measure, ...] | None = None
) -> Table:
    """Return the table of an experiment from the results by key; those of other experiments are ignored. `measures` take the
    place of its columns. Raises `UserError` for an unknown column."""
    if measures is None:
        measures = tuple(measure_of(name) for name in experiment.columns)
    by_row, notes = cells_by_row(experiment, results)
    lines = [
        _line(experiment, row, measures, found) for row, found in zip(experiment.rows, by_row, strict=True)
    ]
    lines = _with_bold(_with_differences(lines, experiment.compare_to, measures), measures)
    own = {measure.name for measure in measures}
    columns = dict.fromkeys(name for row in experiment.published.values() for name in row if name not in own)
    return Table(
        experiment=experiment,
        measures=measures,
        published=tuple(columns),
        lines=tuple(_with_published(lines, experiment)),
        notes=(*notes, *_notes(lines)),
    )


# --- cells -------------------------------------------------------------------------------------------------------


def cells_by_row(
    experiment: Experiment, results: Mapping[str, CellResult]
) -> tuple[list[dict[int, CellResult]], list[str]]:
    """Return the results of each row by seed, and notes on those that are left out: accuracies on other held-out problems cannot
    stand in one table, which shows the largest group."""
    rows = [
        {cell.seed: results[cell.key] for cell in row_cells(experiment, row) if cell.key in results}
        for row in experiment.rows
    ]
    here = {cell.key: cell for row in rows for cell in row.values()}
    groups = Counter(_conditions(cell) for cell in here.values())
    if len(groups) < 2:
        return rows, []
    chosen = max(sorted(groups), key=lambda group: groups[group])
    kept = [{seed: cell for seed, cell in row.items() if _conditions(cell) == chosen} for row in rows]
    others = counted(len(here) - groups[chosen], "cell")
    return kept, [f"not shown: {others} with other held-out problems"]


def _conditions(result: CellResult) -> str:
    """Return what cells of one table have in common: the held-out problems and how they are sampled."""
    return json.dumps(dict(result.evaluation), sort_keys=True)


# --- lines -------------------------------------------------------------------------------------------------------


def _line(
    experiment: Experiment, row: Row, measures: Sequence[Measure], cells: Mapping[int, CellResult]
) -> Line:
    wanted = len(experiment.seeds) if row.baseline is None else 1
    return Line(
        label=row.label,
        kind="algorithm" if row.baseline is None else "baseline",
        setting=setting_text(row.changes),
        numbers={one.name: _mean(one, cells, wanted) for one in measures},
        cells=dict(sorted(cells.items())),
    )


def setting_text(changes: Mapping[str, Any]) -> str:
    """Return settings as text: 'algorithm.top_k = 128, rollouts.temperature = 0.7'. Teachers are shown by their names."""
    shown = {
        key: [one["name"] for one in value] if key == "teachers" else value for key, value in changes.items()
    }
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in shown.items())


def _mean(measure: Measure, cells: Mapping[int, CellResult], wanted: int) -> Number:
    values = [value for cell in cells.values() if (value := measure.value(cell)) is not None]
    if not values:
        return Number(mean=None, deviation=None, found=0, wanted=wanted)
    found = spread(values)
    return Number(mean=found.mean, deviation=found.deviation, found=len(values), wanted=wanted)


def paired_difference(measure: Measure, line: Line, other: Line) -> Estimate | None:
    """Return the mean of `line` minus `other` with its 95% interval, on the seeds that both have; None without any. A baseline,
    which no seed changes, is paired with every seed."""
    differences = []
    for own, reference in _pairs(line, other):
        first, second = point_values(measure, own), point_values(measure, reference)
        if first is not None and second is not None:
            differences.append(first - second)
    return mean_estimate(np.mean(differences, axis=0).tolist()) if differences else None


def _pairs(line: Line, other: Line) -> list[tuple[CellResult, CellResult]]:
    if "baseline" in (line.kind, other.kind):
        return [(own, reference) for own in line.cells.values() for reference in other.cells.values()]
    return [(line.cells[seed], other.cells[seed]) for seed in sorted(line.cells.keys() & other.cells.keys())]


def _with_differences(lines: Sequence[Line], label: str | None, measures: Sequence[Measure]) -> list[Line]:
    """Return the lines with their differences to the row of this label."""
    reference = next((line for line in lines if line.label == label), None)
    if reference is None:
        return list(lines)
    return [
        line if line is reference else replace(line, differences=_differences(line, reference, measures))
        for line in lines
    ]


def _differences(line: Line, other: Line, measures: Sequence[Measure]) -> dict[str, Estimate]:
    pairs = ((one.name, paired_difference(one, line, other)) for one in measures)
    return {name: found for name, found in pairs if found is not None}


def _with_bold(lines: Sequence[Line], measures: Sequence[Measure]) -> list[Line]:
    bold: list[set[str]] = [set() for _ in lines]
    for measure in measures:
        for place in _best(lines, measure):
            bold[place].add(measure.name)
    return [replace(line, bold=frozenset(names)) for line, names in zip(lines, bold, strict=True)]


def _best(lines: Sequence[Line], measure: Measure) -> list[int]:
    """Return the places of the trained line with the best mean, and of those whose paired interval to it contains 0; none with
    fewer than two lines."""
    means = {
        place: mean
        for place, line in enumerate(lines)
        if line.kind == "algorithm" and (mean := line.numbers[measure.name].mean) is not None
    }
    if measure.problems is None or len(means) < 2:
        return []
    best = max(means, key=lambda place: means[place])
    found = []
    for place in means:
        gap = paired_difference(measure, lines[place], lines[best])
        if place == best or (gap is not None and gap.low <= 0.0 <= gap.high):
            found.append(place)
    return found


def _with_published(lines: Sequence[Line], experiment: Experiment) -> list[Line]:
    """Return the lines, each followed by the published values of its row."""
    found = []
    for line in lines:
        found.append(line)
        if line.label in experiment.published:
            found.append(_published(line.label, experiment.published[line.label]))
    return found


def _published(label: str, values: Mapping[str, float | str]) -> Line:
    return Line(label=label, kind="published", published={name: str(value) for name, value in values.items()})


# --- notes -------------------------------------------------------------------------------------------------------


def _notes(lines: Sequence[Line]) -> list[str]:
    """Return what all numbers have in common, and what is missing."""
    cells = [cell for line in lines for cell in line.cells.values()]
    if not cells:
        return ["no cell of this table has been run"]
    return [
        *_dataset_notes(lines),
        _evaluation_note(cells[0]),
        _origin_note(cells),
        *_missing_note(lines),
    ]


def _dataset_notes(lines: Sequence[Line]) -> list[str]:
    """Return the datasets of the trained lines; with several of them, which line has which."""
    found: dict[str, list[str]] = {}
    for line in lines:
        for cell in line.cells.values() if line.kind == "algorithm" else ():
            name = f"{cell.dataset.get('name')} ({cell.dataset.get('digest')})"
            labels = found.setdefault(name, [])
            labels += [] if line.label in labels else [line.label]
    if len(found) < 2:
        return [f"dataset: {name}" for name in found]
    return [f"dataset {name}: {', '.join(labels)}" for name, labels in found.items()]


def _evaluation_note(cell: CellResult) -> str:
    how = cell.evaluation
    return (
        f"evaluation: {counted(int(how['problems']), 'held-out problem')} ({how['problems_digest']}),"
        f" {counted(int(how['samples']), 'sample')} each at temperature {how['temperature']:g}, top-p {how['top_p']:g}"
    )


def _origin_note(cells: Sequence[CellResult]) -> str:
    commits = sorted({str(one.commit)[:12] if one.commit else "unknown" for one in cells})
    machines = sorted({str(one.machine) for one in cells})
    commands = sorted({str(one.command) for one in cells})
    return f"commits: {', '.join(commits)}; machines: {', '.join(machines)}; commands: {'; '.join(commands)}"


def _missing_note(lines: Sequence[Line]) -> list[str]:
    missing = [
        f"{line.label} ({len(line.cells)} of {wanted})"
        for line in lines
        if (wanted := max((one.wanted for one in line.numbers.values()), default=0)) > len(line.cells)
    ]
    return [f"missing cells: {', '.join(missing)}"] if missing else []
