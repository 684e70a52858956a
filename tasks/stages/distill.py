"""Stage distill: the hand-off to training. Writes RUN.json, has it checked, runs it as a job and shows how it goes."""

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

from tasks.core.config import PROJECT_ROOT, DistillSettings
from tasks.core.errors import UserError
from tasks.core.rows import Problem
from tasks.io.artifacts import atomic_write
from tasks.io.jobs import JobFailed, cluster_lines, local_lines
from tasks.io.metrics import read_metrics
from tasks.seeds.registry import load
from tasks.stages.driver import Run
from tasks.stages.progress import LiveTable, Progress
from training.config import RunConfig, run_folder, run_from

PROBLEMS = "problems.txt"
"""Beside RUN.json: what the launcher found that a person can mend."""
STEP = re.compile(r"train: step (\d+) of (\d+)")
TABLE_ROWS = 20
SHOWN = {
    "step": "step",
    "loss": "loss",
    "mean weight": "weight_mean",
    "teacher's top-k mass": "teacher_mass",
    "student's": "student_mass",
    "entropy": "entropy",
    "gradient norm": "gradient_norm",
    "learning rate": "learning_rate",
    "tokens a response": "response_tokens_mean",
    "cut off": "truncated_share",
    "engine against student": "gap_mean",
    "staleness": "staleness",
    "tokens/s": "tokens_per_second",
    "seconds": "seconds",
    "rollout": "share_rollout",
    "teacher": "share_teacher",
    "student": "share_student",
    "sync": "share_sync",
}
"""Title -> metric of the table of steps."""
FINGERPRINT = re.compile(r"run +([0-9a-f]{64})")


def distill_in_build(run: Run, dataset: str) -> str | None:
    """`distill`, where the profile says that a build ends with it; else None."""
    settings = run.config.distill
    return distill(run, dataset) if settings is not None and settings.in_build else None


def distill(run: Run, dataset: str) -> str:
    """Train the student of the profile on the dataset; the folder of the trained student. A finished run is found again; an
    unfinished one goes on from its last checkpoint. `UserError` when the profile says nothing of distillation."""
    settings = run.config.distill
    if settings is None:
        raise UserError(
            f"profile {run.config.profile} has no section distill: add one, or choose another profile"
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


def run_config(settings: DistillSettings, dataset: Path, folder: Path) -> RunConfig:
    """The run's settings: the profile's, with the paths that only the flow knows. `UserError` names the key."""
    given = dict(settings.run)
    given["output"] = str(folder)
    given["dataset"] = {**given.get("dataset", {}), "folder": str(dataset)}
    if settings.held_out:
        given["evaluation"] = {**given.get("evaluation", {}), "problems": str(folder / "held_out.jsonl")}
    return run_from(given, "distill.run")


def held_out(settings: DistillSettings) -> Iterator[Problem]:
    """The problems on which the student is measured: those of the sources that have an answer."""
    for source in settings.held_out:
        for row in load(source).outcomes:
            if isinstance(row, Problem) and row.answer is not None:
                yield row


def write_held_out(path: Path, problems: Iterable[Problem]) -> None:
    """JSON lines with id, problem and answer."""
    rows = ({"id": row.id, "problem": row.text, "answer": row.answer} for row in problems)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@task(cache_policy=NO_CACHE, persist_result=False)
def train(config: RunConfig, settings: DistillSettings) -> Path:
    """Check, then train, as a job on this machine or on the Ray cluster of the settings; the folder of the run."""
    logger = get_run_logger()
    settled = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    folder = run_folder(config.output, checked(config.output, settled, logger.info))
    atomic_write(
        folder / "RUN.json", settled
    )  # of this very run: what runs meanwhile in the same output keeps its own
    launch = command(folder)
    place: Any = {"folder": PROJECT_ROOT, "environment": environment(), "log": folder / "train.log"}
    if settings.ray_address is None:
        lines = local_lines(launch, **place)
    else:
        lines = cluster_lines(settings.ray_address, f"sure-math-{folder.name}", launch, **place)
    with sentences(folder), closing(lines):
        follow(lines, logger.info, folder)
    return folder


def checked(output: Path, settled: str, log: Any) -> str:
    """The fingerprint of the run of these settings (JSON). `UserError` has the sentences of what the check finds.

    The check has a folder of its own in `output`, where others may be checked meanwhile. It is removed, unless the check
    broke without a sentence: its log is there.
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
            with sentences(folder), closing(lines):
                for line in lines:
                    log("distill: %s", line)
                    found = match[1] if (match := FINGERPRINT.fullmatch(line)) else found
        except JobFailed:
            afterwards.pop_all()
            raise
    if not found:
        raise RuntimeError("the check told no fingerprint: see its lines above")
    return found


def command(folder: Path, *options: str) -> list[str]:
    """Starts the training run whose RUN.json lies in `folder`."""
    problems = ["--problems", str(folder / PROBLEMS)]
    return [sys.executable, "-m", "training.launch", *problems, *options, str(folder / "RUN.json")]


@contextmanager
def sentences(folder: Path) -> Iterator[None]:
    """A block whose `JobFailed` becomes a `UserError` of what the launcher found wrong with the run in `folder`, one sentence
    a line, where it found anything."""
    (folder / PROBLEMS).unlink(missing_ok=True)  # those of an earlier start
    try:
        yield
    except JobFailed as error:
        if (folder / PROBLEMS).exists():
            raise UserError((folder / PROBLEMS).read_text(encoding="utf-8").rstrip("\n")) from error
        raise


def environment() -> dict[str, str]:
    """This process's, without the flow's connection to Prefect."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


def follow(lines: Iterable[str], log: Any, folder: Path) -> None:
    """Show the lines of the run, its steps as a progress artifact, and the metrics of the last ones as a table."""
    progress: Progress | None = None
    table = LiveTable("distill-steps", "The last steps of the training")
    for line in lines:
        found = STEP.match(line)
        if line.startswith("train: "):
            log("distill%s", line.removeprefix("train"))
        if found and progress is None:
            progress = Progress("distill", int(found[2]), lambda _line: None, time.monotonic, unit="steps")
        if found and progress is not None:
            progress.at(int(found[1]))
            table.show(lambda: last_steps(folder))
    if progress is not None:
        progress.shard_done(progress.total)
        progress.finish()
        table.show(lambda: last_steps(folder), last=True)


def last_steps(folder: Path) -> list[dict[str, str]]:
    """The columns `SHOWN` of the newest steps that the run in `folder` has written, newest first, as text."""
    return [
        {title: _figure(row[name]) for title, name in SHOWN.items() if name in row}
        for row in reversed(read_metrics(folder)[-TABLE_ROWS:])
    ]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def publish(result: dict[str, Any]) -> None:
    """What came out, for the Prefect UI."""
    cost = result["cost"]
    rows = [{"what": name, "value": f"{value:,.1f}"} for name, value in cost.items()]
    create_table_artifact(table=rows, key="distill-cost", description="What the training took")
    if result["held_out"] is not None:
        before, after, gain = (result["held_out"][name] for name in ("before", "after", "gain"))
        create_markdown_artifact(
            f"pass@1 {before['value']:.1%} before, {after['value']:.1%} after, gain {100 * gain['value']:+.1f} points"
            f" [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}] on {gain['n']} held-out problems\n",
            key="distill-gain", description="How much better the student became",
        )  # fmt: skip
