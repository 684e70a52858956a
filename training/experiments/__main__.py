"""`python -m training.experiments FILE`: run the cells of an experiment that have no stored result yet, or check all of them.

Exit codes: 0 all cells are measured; 1 some failed or were left; 2 a problem that the user can fix; 3 stopped on request: start
the command again to continue.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tasks.errors import UserError
from tasks.storage.disk import atomic_write
from tasks.text import counted, visible
from training.config import project_path
from training.experiments.cell import Cell
from training.experiments.grid import (
    EXPERIMENTS,
    Experiment,
    cells_of,
    experiment_path,
    load_experiment,
    row_cells,
)

STOPPED = 3
PROBLEMS, STATE = "problems.txt", "state.json"
"""Files of `--report`: what the user can fix, and the state of every cell."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        path = experiment_path(arguments.experiment)
        experiment = load_experiment(path)
        if arguments.seeds is not None:
            experiment = experiment.model_copy(update={"seeds": tuple(dict.fromkeys(arguments.seeds))})
        chosen = labelled(experiment, arguments.only)
        return _run(experiment, chosen, arguments, command_of(path))
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        if arguments.report is not None:
            with suppress(OSError, UserError):  # the problem may be a full disk
                atomic_write(arguments.report / PROBLEMS, f"{error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.experiments", description="Run the cells of an experiment."
    )
    parser.add_argument("experiment", metavar="FILE", help="an experiment file, or its name: pocket/learning")
    parser.add_argument("--only", nargs="+", metavar="LABEL", help="labels of the rows that are run")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="seeds in place of the file's")
    parser.add_argument("--check", action="store_true", help="check every cell and start nothing")
    parser.add_argument("--max-hours", type=float, metavar="HOURS", help="budget in place of the file's")
    parser.add_argument(
        "--results", type=Path, default=Path("results/cells"), metavar="FOLDER", help="of the results"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("output/experiments"),
        metavar="FOLDER",
        help="of the runs, with checkpoints",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help=f"also write problems ({PROBLEMS}) and progress ({STATE}) here",
    )
    return parser


def labelled(experiment: Experiment, only: Sequence[str] | None) -> list[tuple[str, Cell]]:
    """Return the cells of some rows (None: all) with the label of their first row. Raises `UserError` for an unknown label."""
    labels = [row.label for row in experiment.rows]
    if unknown := next((one for one in only or [] if one not in labels), None):
        raise UserError(
            f"--only names {unknown!r}, which is no row: choose among {', '.join(map(repr, labels))}"
        )
    names: dict[str, str] = {}
    for row in experiment.rows:
        for cell in row_cells(experiment, row) if only is None or row.label in only else ():
            names.setdefault(repr(cell), row.label)
    return [(names[repr(cell)], cell) for cell in cells_of(experiment) if repr(cell) in names]


def command_of(path: Path) -> str:
    """Return the command that runs the experiment, without a path of this machine."""
    folder = project_path(EXPERIMENTS)
    if path.is_relative_to(folder):
        return f"make experiment NAME={path.relative_to(folder).with_suffix('').as_posix()}"
    return f"python -m training.experiments {path.name}"


def say(text: str) -> None:
    """Print a line of the experiment."""
    print(f"experiment: {visible(text)}", flush=True)


def _run(
    experiment: Experiment, chosen: Sequence[tuple[str, Cell]], arguments: argparse.Namespace, command: str
) -> int:
    from training.experiments.runner import Tally, check_cells, run_cells
    from training.loop import Stopped

    results, work = project_path(arguments.results), project_path(arguments.work)
    found = check_cells(chosen, results=results, work=work)
    for one in found.stored:
        say(f"stored: {one.label}, seed {one.cell.seed}: {one.said}")
    if found.problems:
        raise UserError("\n".join(found.problems))
    say(f"{counted(len(chosen), 'cell')}, {len(found.stored)} stored, {len(found.jobs)} to measure")
    if arguments.check:
        for job in found.jobs:
            say(
                f"to measure: {job.label}, seed {job.cell.seed}, at most {counted(job.steps, 'step')}, {job.cell.key}"
            )
        return 0
    tally = Tally(found, say, None if arguments.report is None else arguments.report / STATE)
    hours = experiment.max_hours if arguments.max_hours is None else arguments.max_hours
    try:
        run_cells(
            found.jobs, results=results, command=command, max_hours=hours, begin=tally.begin, report=tally.add
        )
    except Stopped as stopped:
        say(str(stopped))
        return STOPPED
    for one in tally.lacking:
        say(f"{one.state}: {one.label}, seed {one.cell.seed}: {one.said}")
    return 1 if tally.lacking else 0


if __name__ == "__main__":
    sys.exit(main())
