"""Stage distill: start the training. Writes RUN.json, checks it, runs it as a job and shows its progress."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.config import PROJECT_ROOT, DistillSettings
from tasks.errors import UserError
from tasks.processes.jobs import JobFailed, cluster_lines, local_lines
from tasks.runtime.driver import Run
from tasks.runtime.progress import LiveTable, Progress
from tasks.runtime.training_run import held_out, run_config, write_held_out
from tasks.storage.artifacts import atomic_write
from tasks.storage.metrics import read_metrics
from training.config import RunConfig, run_folder

PROBLEMS = "problems.txt"
"""File next to RUN.json with the errors of the launcher that the user can fix, one per line."""
STEP = re.compile(r"train: step (\d+) of (\d+)")
TABLE_ROWS = 20
SHOWN = {
    "step": "step",
    "loss": "loss",
    "mean weight": "weight_mean",
    "teacher's top-k mass": "teacher_mass",
    "student's top-k mass": "student_mass",
    "entropy": "entropy",
    "gradient norm": "gradient_norm",
    "learning rate": "learning_rate",
    "tokens per response": "response_tokens_mean",
    "truncated": "truncated_share",
    "trainer/engine mismatch": "mismatch_mean",
    "staleness": "staleness",
    "tokens/s": "tokens_per_second",
    "seconds": "seconds",
    "rollout": "share_rollout",
    "teacher": "share_teacher",
    "student": "share_student",
    "sync": "share_sync",
}
"""Columns of the table of steps: title -> metric."""
FINGERPRINT = re.compile(r"run +([0-9a-f]{64})")


def distill_in_build(run: Run, dataset: str) -> str | None:
    """Run `distill` if the profile includes it in a build (`distill.in_build`), else return None."""
    settings = run.config.distill
    return distill(run, dataset) if settings is not None and settings.in_build else None


def distill(run: Run, dataset: str) -> str:
    """Train the profile's student on the dataset and return the folder of the trained student.

    A finished run is reused; an unfinished one continues from its last checkpoint. Raises `UserError` if the profile has no
    section distill.
    """
    settings = run.config.distill
    if settings is None:
        raise UserError(
            f"profile {run.config.profile} has no section `distill`: add one, or choose another profile"
        )
    output = run.store.root / "distill"
    config = run_config(settings, Path(dataset), output)
    write_held_out(output / "held_out.jsonl", held_out(settings))
    name = f"distill: {config.objective.preset}"
    folder = train.with_options(name="distill", task_run_name=name)(config, settings)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    publish(result)
    get_run_logger().info("distill: student in %s", folder / "student")
    return str(folder / "student")


@task(cache_policy=NO_CACHE, persist_result=False)
def train(config: RunConfig, settings: DistillSettings) -> Path:
    """Check the run, then train it as a job on this machine or on the Ray cluster `ray_address`; return the run's folder."""
    logger = get_run_logger()
    settled = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    folder = run_folder(config.output, check_run(config.output, settled, logger.info))
    atomic_write(folder / "RUN.json", settled)  # each run has its own, so concurrent runs do not interfere
    launch = command(folder)
    place: Any = {"folder": PROJECT_ROOT, "environment": environment(), "log": folder / "train.log"}
    if settings.ray_address is None:
        lines = local_lines(launch, **place)
    else:
        lines = cluster_lines(settings.ray_address, f"sure-math-{folder.name}", launch, **place)
    with job_failed_as_user_error(folder), closing(lines):
        follow(lines, logger.info, folder)
    return folder


def check_run(output: Path, settled: str, log: Any) -> str:
    """Check the settings (JSON) and return the fingerprint of their run. Raises `UserError` with all errors that are found.

    Every check has its own folder in `output`, since several may run at the same time. The folder is removed, except when
    the check crashes: then it keeps the log.
    """
    output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as afterwards:
        folder = Path(mkdtemp(prefix="check-", dir=output))
        afterwards.callback(rmtree, folder)
        atomic_write(folder / "RUN.json", settled)
        lines = local_lines(
            command(folder, "--check"),
            folder=PROJECT_ROOT,
            environment=environment(),
            log=folder / "check.log",
        )
        found = ""
        try:
            with job_failed_as_user_error(folder), closing(lines):
                for line in lines:
                    log("distill: %s", line)
                    found = match[1] if (match := FINGERPRINT.fullmatch(line)) else found
        except JobFailed:
            afterwards.pop_all()
            raise
    if not found:
        raise RuntimeError("the check printed no fingerprint: see its output above")
    return found


def command(folder: Path, *options: str) -> list[str]:
    """Return the command that starts the training run of RUN.json in `folder`."""
    problems = ["--problems", str(folder / PROBLEMS)]
    return [sys.executable, "-m", "training.launch", *problems, *options, str(folder / "RUN.json")]


@contextmanager
def job_failed_as_user_error(folder: Path) -> Iterator[None]:
    """Convert a `JobFailed` of the block to a `UserError` if the launcher wrote errors for the run in `folder`.

    The message has one error per line. Without such errors the `JobFailed` is raised unchanged.
    """
    (folder / PROBLEMS).unlink(missing_ok=True)  # errors of an earlier start
    try:
        yield
    except JobFailed as error:
        if (folder / PROBLEMS).exists():
            raise UserError((folder / PROBLEMS).read_text(encoding="utf-8").rstrip("\n")) from error
        raise


def environment() -> dict[str, str]:
    """Return the environment of this process without the flow's Prefect variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


def follow(lines: Iterable[str], log: Any, folder: Path) -> None:
    """Log the output of the run, show its steps as a progress artifact, and the metrics of the last steps as a table."""
    progress: Progress | None = None
    table = LiveTable("distill-steps", "Last training steps")
    for line in lines:
        found = STEP.match(line)
        if line.startswith("train: "):
            log("distill%s", line.removeprefix("train"))
        if found and progress is None:
            progress = Progress("distill", int(found[2]), lambda _line: None, time.monotonic, unit="steps")
        if found and progress is not None:
            progress.update(int(found[1]))
            table.show(lambda: last_steps(folder))
    if progress is not None:
        progress.shard_done(progress.total)
        progress.finish()
        table.show(lambda: last_steps(folder), last=True)


def last_steps(folder: Path) -> list[dict[str, str]]:
    """Return the columns `SHOWN` of the last steps of the run in `folder`, as text, newest first."""
    return [
        {title: _figure(row[name]) for title, name in SHOWN.items() if name in row}
        for row in reversed(read_metrics(folder)[-TABLE_ROWS:])
    ]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def publish(result: dict[str, Any]) -> None:
    """Publish the result as artifacts of the Prefect UI."""
    cost = result["cost"]
    rows = [{"what": name, "value": f"{value:,.1f}"} for name, value in cost.items()]
    create_table_artifact(table=rows, key="distill-cost", description="Cost of the training")
    if result["held_out"] is not None:
        before, after, gain = (result["held_out"][name] for name in ("before", "after", "gain"))
        create_markdown_artifact(
            f"pass@1 {before['value']:.1%} before, {after['value']:.1%} after, gain {100 * gain['value']:+.1f} points"
            f" [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}] on {gain['n']} held-out problems\n",
            key="distill-gain", description="Gain on the held-out problems",
        )  # fmt: skip
