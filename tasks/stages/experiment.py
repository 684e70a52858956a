"""Stage experiment: run the cells of an experiment as a job, with a table of their states."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.config import PROJECT_ROOT
from tasks.processes.jobs import local_lines
from tasks.processes.pace import duration
from tasks.runtime.experiment import command, done, job_failed_as_user_error, table
from tasks.runtime.phases import phase
from tasks.runtime.progress import LiveTable, Progress
from tasks.runtime.training_job import environment
from tasks.storage.disk import make_folder

LINE = "experiment: "
TRAIN = "train: "
STEP = TRAIN + "step "
LONGEST = 120
"""Characters of a line of the training that are shown."""
REPORTS = "output/experiments"


def run_experiment(
    experiment: str, *, only: Sequence[str], seeds: Sequence[int], max_hours: float | None, results: str
) -> str:
    """Measure the cells of an experiment that have no result yet, and return the folder of the results.

    Raises `UserError` for a wrong experiment, and for cells that failed, after all others were measured.
    """
    report = PROJECT_ROOT / REPORTS / Path(experiment).with_suffix("").name
    started = command(experiment, report, only=only, seeds=seeds, max_hours=max_hours, results=results)
    run_job.with_options(name="experiment", task_run_name=f"experiment: {experiment}")(started, report)
    return str(PROJECT_ROOT / results)


@task(cache_policy=NO_CACHE, persist_result=False)
def run_job(started: list[str], report: Path) -> None:
    """Run the command on this machine. Its lines about cells are logged, and their states are shown."""
    logger = get_run_logger()
    make_folder(report)
    cells = LiveTable("experiment-cells", "Cells of the experiment")
    progress: Progress | None = None
    lines = local_lines(
        started, folder=PROJECT_ROOT, environment=environment(), log=report / "experiment.log"
    )
    latest = deque([""], maxlen=1)  # the last step of the cell that is being measured
    waiting = phase(
        logger.info, lambda seconds: f"experiment: the cells go on, {duration(seconds)}{latest[0]}"
    )
    with job_failed_as_user_error(report), closing(lines), waiting:
        for line in lines:
            if line.startswith(LINE):
                logger.info("%s", line.rstrip())
                latest.append("")
                count, total = done(report)
                if total and progress is None:
                    progress = Progress("experiment", total, lambda _line: None, unit="cell")
                if progress is not None:
                    progress.update(count)
            elif line.startswith(STEP):
                latest.append(f" ({line.removeprefix(TRAIN).rstrip()[:LONGEST]})")
            if progress is not None:
                cells.show(lambda: table(report))
    if progress is not None:
        progress.finish()
        cells.show(lambda: table(report), last=True)
