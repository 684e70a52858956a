"""Accuracy of the students of an experiment, on the problems of some families and on the others.

    PYTHONPATH=. python speed/by_family.py pocket/wrong-half --families 2/2

Prints the table of the experiment with a column for each of the two groups of held-out problems. A problem of several parts
belongs to the first group if one of them is of these families.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocket.variants import chosen_families, families_of
from tasks.errors import UserError
from tasks.runtime.training_run import held_out
from tasks.text import counted
from training.evaluation.statistics import Values
from training.experiments.columns import Measure, measure_of
from training.experiments.grid import Experiment, experiment_path, load_experiment, row_cells
from training.experiments.rendering import markdown_table
from training.experiments.stored import CellResult, Point, read_cells
from training.experiments.summary import Table, make_table


def by_family(
    experiment: Experiment,
    results: Mapping[str, CellResult],
    problems: Sequence[str],
    families: Sequence[str],
) -> Table:
    """Return the table of the experiment with pass@1 on all held-out problems, on those with a part of these families, and on the
    others. `problems` are the texts of all, in the order in which cells have them."""
    samples = experiment.common.get("evaluation.samples", 1)
    measure = measure_of(f"avg_at_{samples}")
    chosen = np.array([not families_of(text).isdisjoint(families) for text in problems])
    return make_table(
        experiment,
        results,
        (measure, _among(measure, chosen, "these families"), _among(measure, ~chosen, "other families")),
    )


def _among(measure: Measure, chosen: NDArray[np.bool_], group: str) -> Measure:
    """Return the measure on the chosen problems only."""

    def problems(cell: CellResult, point: Point) -> Values | None:
        assert measure.problems is not None, "an accuracy"
        values = measure.problems(cell, point)
        if values is None:
            return None
        if len(values) != len(chosen):
            raise UserError(
                f"cell {cell.key} has {counted(len(values), 'held-out problem')} and the profile has {len(chosen)}: measure"
                " the cell again, or correct held_out"
            )
        return values[chosen]

    def value(cell: CellResult) -> float | None:
        values = problems(cell, cell.curve[-1])
        return None if values is None else float(values.mean())

    header = f"{measure.header}, {group} ({chosen.sum()} problems)"
    return replace(measure, name=f"{measure.name} {group}", header=header, value=value, problems=problems)


def main() -> int:
    """Print the table; return 2 for a problem that the user can fix."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("experiment", help="an experiment file, or its name: pocket/wrong-half")
    parser.add_argument("--families", required=True, help="names with commas between them, or 1/2 or 2/2")
    parser.add_argument("--cells", type=Path, default=Path("results/cells"))
    arguments = parser.parse_args()
    try:
        families = chosen_families(arguments.families)
        experiment = load_experiment(experiment_path(arguments.experiment))
        settings = row_cells(experiment, experiment.rows[0])[0].settings()
        problems = [one.problem for one in held_out(settings, Path("dataset"))]
        table = by_family(experiment, read_cells(arguments.cells), problems, families)
        print(markdown_table(table, arguments.cells.as_posix()))
    except (UserError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
