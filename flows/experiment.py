"""Flow "sure-math-experiment": measure the cells of an experiment that have no result yet."""

from __future__ import annotations

from tasks.stages.experiment import run_experiment
from tasks.stages.flow_runs import flow


@flow(name="sure-math-experiment", what="experiment")
def experiment(
    experiment: str = "pocket/learning",
    only: list[str] | None = None,
    seeds: list[int] | None = None,
    max_hours: float | None = None,
    results: str = "results/cells",
) -> str:
    """Measure every cell of an experiment that has no stored result; a killed run continues with the cell that it was at.

    Args:
        experiment: name of a file in configs/experiments/, without its extension, or the path of such a file.
        only: labels of the rows that are run; by default all.
        seeds: seeds in place of the file's.
        max_hours: budget in place of the file's; no cell is begun that it does not cover.
        results: folder of the results, one file for each cell.

    Returns the folder of the results.
    """
    return run_experiment(
        experiment, only=only or (), seeds=seeds or (), max_hours=max_hours, results=results
    )
