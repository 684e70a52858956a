"""The training job: its check, command and environment, its errors, and the display of its progress."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.keys import environment_without_keys
from tasks.processes.jobs import JobFailed, local_lines
from tasks.runtime.progress import LiveTable, Progress
from tasks.storage.artifacts import atomic_write
from tasks.storage.cards import escape_markdown
from tasks.storage.disk import disk_errors, make_folder
from tasks.storage.evaluations import read_evaluations
from tasks.storage.metrics import read_metrics
from tasks.storage.rollout_samples import last_samples

PROBLEMS = "problems.txt"
"""File next to RUN.json with the errors of the launcher that the user can fix, one per line."""
STEP = re.compile(r"train: step (\d+) of (\d+)")
TABLE_ROWS = 20
EVALUATED = "Evaluations on the held-out problems"
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
    "reward": "reward_mean",
    "held-out accuracy": "held_out_accuracy",
    "trainer/engine mismatch": "mismatch_mean",
    "staleness": "staleness",
    "tokens/s": "tokens_per_second",
    "rollout tokens/s": "rollout_tokens_per_second",
    "trained tokens/s": "trained_tokens_per_second",
    "seconds": "seconds",
    "rollout": "share_rollout",
    "teacher": "share_teacher",
    "student": "share_student",
    "sync": "share_sync",
}
"""Columns of the table of steps: title -> metric."""
FINGERPRINT = re.compile(r"run +([0-9a-f]{64})")
SUMMARY = re.compile(
    r"(run|rows|weights|steps|tokens|KV cache|disk|evaluates|budget|reference|teacher) {2,}\S"
)
"""Lines of the check that are logged: its summary, without the table of memory and the libraries' messages."""
SECTION = "distill.run"
"""Section of a profile with the settings of the training; its keys are those that the launcher's errors name."""


def check_run(output: Path, settled: str, log: Any) -> str:
    """Check the settings (JSON) and return the fingerprint of their run. Raises `UserError` with all errors that are found.

    Every check has its own folder in `output`, since several may run at the same time. The folder is removed, except when
    the check crashes: then it keeps the log.
    """
    make_folder(output)
    with ExitStack() as afterwards:
        with disk_errors(output):
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
                    if SUMMARY.match(line):
                        log("distill: %s", line)
                    found = match[1] if (match := FINGERPRINT.fullmatch(line)) else found
        except JobFailed:
            afterwards.pop_all()
            raise
    if not found:
        raise RuntimeError("the check printed no fingerprint: see its output above")
    return found


class Interrupted(JobFailed):
    """A training that failed after it had written a checkpoint: started again, it continues from there."""


@contextmanager
def interrupted_if_advanced(folder: Path, log: Any) -> Iterator[None]:
    """Convert a `JobFailed` of the block to `Interrupted` if the run in `folder` has a later checkpoint than before."""
    before = last_checkpoint(folder)
    try:
        yield
    except JobFailed as error:
        if (step := last_checkpoint(folder)) > before:
            log(
                "distill: the training ended with an error; it continues from its checkpoint of step %d", step
            )
            raise Interrupted(str(error)) from error
        raise


def last_checkpoint(folder: Path) -> int:
    """Return the step of the last checkpoint of a run, -1 without one."""
    found = (path.parent.name.removeprefix("step-") for path in folder.glob("checkpoints/step-*/record.json"))
    return max((int(step) for step in found if step.isdecimal()), default=-1)


def command(folder: Path, *options: str) -> list[str]:
    """Return the command that starts the training run of RUN.json in `folder`."""
    problems = ["--problems", str(folder / PROBLEMS)]
    return [sys.executable, "-m", "training.launch", *problems, *options, str(folder / "RUN.json")]


@contextmanager
def job_failed_as_user_error(folder: Path) -> Iterator[None]:
    """Convert a `JobFailed` of the block to a `UserError` if the launcher wrote errors for the run in `folder`.

    The message has one error per line, each with the section of the profile that it is about. Without such errors the
    `JobFailed` is raised unchanged.
    """
    (folder / PROBLEMS).unlink(missing_ok=True)  # errors of an earlier start
    try:
        yield
    except JobFailed as error:
        if (folder / PROBLEMS).exists():
            lines = (folder / PROBLEMS).read_text(encoding="utf-8").splitlines()
            raise UserError("\n".join(f"{SECTION}: {line}" for line in lines)) from error
        raise


def environment() -> dict[str, str]:
    """Return the environment of this process without the flow's Prefect variables and without keys, which no training needs."""
    kept = environment_without_keys()
    kept = {name: value for name, value in kept.items() if not name.startswith("PREFECT_")}
    return kept | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


def follow(lines: Iterable[str], log: Any, folder: Path) -> None:
    """Log the run's own lines, show its steps as a progress artifact, and as tables the metrics of the last steps,
    sample rollouts and the evaluations on held-out problems."""
    progress: Progress | None = None
    tables: dict[LiveTable, Callable[[], list[dict[str, str]]]] = {
        LiveTable("distill-steps", "Last training steps"): lambda: last_steps(folder),
        LiveTable("distill-rollouts", "Sample rollouts"): lambda: sample_rollouts(folder),
        LiveTable("distill-evaluations", EVALUATED): lambda: evaluation_rows(evaluations_so_far(folder)),
    }
    for line in lines:
        found = STEP.match(line)
        if line.startswith("train: "):
            log("distill%s", line.removeprefix("train"))
        if found and progress is None:
            progress = Progress("distill", int(found[2]), lambda _line: None, time.monotonic, unit="step")
        if found and progress is not None:
            progress.update(int(found[1]))
            for table, rows in tables.items():
                table.show(rows)
    if progress is not None:
        progress.shard_done(progress.total)
        progress.finish()
        for table, rows in tables.items():
            table.show(rows, last=True)


def last_steps(folder: Path) -> list[dict[str, str]]:
    """Return the last steps of the run in `folder` as text, newest first, with the columns of `SHOWN` that any of them has."""
    rows = read_metrics(folder)[-TABLE_ROWS:]
    columns = {title: name for title, name in SHOWN.items() if any(name in row for row in rows)}
    return [
        {title: _figure(row[name]) if name in row else "" for title, name in columns.items()}
        for row in reversed(rows)
    ]


def sample_rollouts(folder: Path) -> list[dict[str, str]]:
    """Return the last table of sample rollouts as text. The UI renders cells as Markdown, so texts are escaped; they are
    truncated, and their controls are made visible."""
    return [
        {
            "step": str(row["step"]),
            "group": str(row["group"]),
            "weight": _figure(row["weight"]),
            "reward": "" if row["reward"] is None else _figure(row["reward"]),
            "tokens": str(row["tokens"]),
            "ended by": escape_markdown(row["finish_reason"]),
            "problem": escape_markdown(row["problem"]),
            "response": escape_markdown(row["response"]),
        }
        for row in last_samples(folder)
    ]


def evaluations_so_far(folder: Path) -> list[dict[str, float]]:
    """Return the evaluations of the steps that the run in `folder` has completed, and of its start. A continued run repeats
    later ones."""
    steps = [row["step"] for row in read_metrics(folder)]
    return [one for one in read_evaluations(folder) if one["step"] <= max(steps, default=0)]


def evaluation_rows(
    evaluations: Sequence[Mapping[str, float]], exported: float | None = None
) -> list[dict[str, str]]:
    """Return one row for each evaluation; `exported` is the step of the student that is exported, once it is known."""
    return [
        {
            "step": f"{one['step']:,}",
            "pass@1": f"{one['accuracy']:.1%}",
            "correct in at least one sample": f"{one['pass_at_n']:.1%}",
            "exported": "yes" if one["step"] == exported else "",
        }
        for one in evaluations
    ]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
