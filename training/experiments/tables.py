"""`python -m training.experiments.tables [NAME ...] [--page]`: tables and figures of experiments, from stored cells only.

For each NAME (`pocket/uopd-main`, or a file) a folder below `--output` gets the views of the experiment: `table.md`, `.csv` and
`.tex`, `metrics.md` and `.csv`, and every figure as SVG and PNG. `--page` writes docs/results.md with its figures: the
experiments of the pocket edition of which half of the rows have a cell, and a list of the others. Nothing is trained or
evaluated, and no dataset or model is read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.storage.disk import atomic_write
from training.experiments.figures import FIGURES, png, svg
from training.experiments.grid import EXPERIMENTS, Experiment, experiment_path, load_experiment
from training.experiments.rendering import csv_table, latex_table, markdown_table, metrics_csv, metrics_table
from training.experiments.stored import CellResult, read_cells
from training.experiments.summary import Line, Table, make_table

__all__ = ["CELLS", "PAGE", "main", "page", "write_page", "write_views"]

CELLS = PROJECT_ROOT / "results" / "cells"
PAGE = PROJECT_ROOT / "docs" / "results.md"
CELLS_LINK = "../results/cells"
"""The results of the cells, from the page."""
FIGURE_FOLDER = "results"
"""Folder of the page's figures, next to the page."""
COMMAND = "python -m training.experiments.tables --page"
HEAD = f"""\
# Results

Experiments of the pocket edition (`configs/experiments/pocket/`): small models and generated problems on two CPU cores. What
holds here need not hold for models of billions of parameters. This page is generated from the files in
[results/cells](../results/cells) by

```bash
{COMMAND}
```

and `make experiment NAME=pocket/...` trains the cells that are missing. The links in the last column of a table lead to the cells
that its numbers come from, one per seed: settings, dataset, commit, command and the result of every held-out problem.

"""

MISSING = """\
## Not measured yet

Fewer than half of the rows of these experiments have a cell:
"""


def write_views(
    experiment: Experiment, results: Mapping[str, CellResult], folder: Path, cells: Path
) -> list[Path]:
    """Write the views of an experiment into `folder` and return the files. `cells`: the folder of the results."""
    table = make_table(experiment, results)
    folder.mkdir(parents=True, exist_ok=True)
    link = Path(os.path.relpath(cells, folder)).as_posix()
    written = []
    for name, content in _files(table, link):
        atomic_write(folder / name, content)
        written.append(folder / name)
    return written


def _files(table: Table, link: str) -> Iterator[tuple[str, str | bytes]]:
    views = table.experiment.views
    if "table" in views:
        yield "table.md", markdown_table(table, link)
        yield "table.csv", csv_table(table)
        yield "table.tex", latex_table(table)
    if "metrics" in views:
        yield "metrics.md", metrics_table(table, link)
        yield "metrics.csv", metrics_csv(table)
    for view in views:
        if view in FIGURES and (figure := FIGURES[view](table)) is not None:
            yield f"{view}.svg", svg(figure)
            yield f"{view}.png", png(figure)


# --- the page ----------------------------------------------------------------------------------------------------


def page(results: Mapping[str, CellResult]) -> str:
    """Return docs/results.md: the experiments of the pocket edition of which half of the rows have a cell, and a list of the
    others."""
    return _page(_tables(results), CELLS_LINK)


def _page(tables: Mapping[str, Table], link: str) -> str:
    sections = [_section(name, table, link) for name, table in tables.items() if _is_shown(table)]
    others = [_missing(name, table) for name, table in tables.items() if not _is_shown(table)]
    if others:
        sections.append("\n".join([MISSING, *others, ""]))
    return HEAD + "\n".join(sections)


def write_page(results: Mapping[str, CellResult], path: Path = PAGE) -> list[Path]:
    """Write the page and its figures, and return the files. Figures of earlier cells are removed."""
    tables, folder, written = _tables(results), path.parent / FIGURE_FOLDER, [path]
    atomic_write(path, _page(tables, CELLS_LINK))
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        for view in _figures(table) if _is_shown(table) else ():
            figure = FIGURES[view](table)
            if figure is not None:
                written.append(folder / f"{name}-{view}.svg")
                atomic_write(written[-1], svg(figure))
    for old in set(folder.glob("*.svg")) - set(written):
        old.unlink()
    return written


def _tables(results: Mapping[str, CellResult]) -> dict[str, Table]:
    """Return the tables of the pocket edition by name."""
    paths = sorted((PROJECT_ROOT / EXPERIMENTS / "pocket").glob("*.yaml"))
    return {path.stem: make_table(load_experiment(path), results) for path in paths}


def _is_shown(table: Table) -> bool:
    """Whether half of the rows have a cell. Experiments share cells, and one that has no others says nothing yet."""
    return 2 * len(_measured(table)) >= len(table.experiment.rows)


def _measured(table: Table) -> list[Line]:
    return [line for line in table.lines if line.cells]


def _missing(name: str, table: Table) -> str:
    """Return the entry of an experiment in the list of those without a section."""
    measured, rows = len(_measured(table)), len(table.experiment.rows)
    return f"- {name}: {table.experiment.title} (rows with a cell: {measured} of {rows})"


def _section(name: str, table: Table, link: str) -> str:
    views = table.experiment.views
    parts = [f"## {name}", "", f"`make experiment NAME=pocket/{name}`", ""]
    parts += [markdown_table(table, link)] if "table" in views else []
    if "metrics" in views:
        parts += ["Metrics of the last steps:", "", metrics_table(table, link)]
    parts += [f"{remark}\n" for remark in table.experiment.remarks]
    for view in _figures(table):
        parts += [
            f"![{table.experiment.title}: {view.replace('_', ' ')}]({FIGURE_FOLDER}/{name}-{view}.svg)",
            "",
        ]
    return "\n".join(parts)


def _figures(table: Table) -> list[str]:
    """Return the figures among the views that the cells have values for."""
    return [view for view in table.experiment.views if view in FIGURES and FIGURES[view](table) is not None]


# --- command -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a problem that the user can fix."""
    parser = argparse.ArgumentParser(
        prog="python -m training.experiments.tables", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="pocket/uopd-main, or an experiment file")
    parser.add_argument("--cells", type=Path, default=CELLS, help="folder of the results of cells")
    parser.add_argument(
        "--output",
        type=Path,
        default=PROJECT_ROOT / "output" / "tables",
        help="folder of the tables and figures",
    )
    parser.add_argument("--page", action="store_true", help="write docs/results.md")
    given = parser.parse_args(arguments)
    if not given.names and not given.page:
        parser.error("name an experiment, or give --page")
    try:
        results = read_cells(given.cells)
        for name in given.names:
            path = experiment_path(name)
            folder = (
                given.output
                / (path.parent.name if path.parent.name in ("paper", "pocket") else "")
                / path.stem
            )
            for file in write_views(load_experiment(path), results, folder, given.cells):
                sys.stdout.write(f"{file}\n")
        if given.page:
            for file in write_page(results):
                sys.stdout.write(f"{file}\n")
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
