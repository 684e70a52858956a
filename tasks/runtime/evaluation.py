"""The job of an evaluation: its settings, command and environment, its errors, and what it reports."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.benchmarks.protocols import DECLARED, find_protocol
from tasks.benchmarks.registry import find
from tasks.config import PROJECT_ROOT, Config, explain
from tasks.errors import UserError
from tasks.evaluate_settings import EvaluateSettings
from tasks.keys import HUB_TOKEN, environment_without_keys
from tasks.llm.model_folder import named_folder
from tasks.processes.jobs import JobFailed

SETTINGS, PROBLEMS = "EVALUATE.json", "problems.txt"
"""Files in the folder of the results: what the job reads, and what the user can fix."""
RESULT = "result in "
"""Line of the job that names the folder of a result."""


def evaluation_settings(config: Config, given: Mapping[str, Any]) -> EvaluateSettings:
    """Return the section `evaluate` with what is given. Without a model it is the student that the profile trained last.

    Raises `UserError` for an invalid value, an unknown benchmark or protocol, and if there is no model.
    """
    data = config.evaluate.model_dump() | dict(given)
    data["model"] = data["model"] or newest_student(PROJECT_ROOT / config.run.output)
    try:
        settings = EvaluateSettings.model_validate(data)
    except ValidationError as error:
        raise UserError(explain(error, "evaluate", "tasks/evaluate_settings.py")) from error
    for entry in settings.benchmarks:
        find(entry.partition("=")[0].strip())
    for name in set(settings.protocols) - {DECLARED}:
        find_protocol(name)
    if settings.base_url is None:
        named_folder(str(settings.model), PROJECT_ROOT)
    return settings


def newest_student(output: Path) -> str:
    """Return the folder of the student that was trained last in an output folder. Raises `UserError` if there is none."""
    try:
        run = json.loads((output / "distill" / "latest.json").read_text(encoding="utf-8"))["run"]
        return str(output / "distill" / run / "student")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"no model is given, and {output} has no trained student: name a model as MODEL, or run make distill"
        ) from error


def command(out: Path) -> list[str]:
    """Return the command that evaluates by the settings in `out`."""
    return [
        sys.executable, "-m", "training.evaluate", "--settings", str(out / SETTINGS), "--problems", str(out / PROBLEMS),
    ]  # fmt: skip


def environment(settings: EvaluateSettings) -> dict[str, str]:
    """Return the environment of this process without the flow's Prefect variables. Of its keys it has those that an evaluation
    needs: the hub's token and the endpoint's key."""
    kept = {
        name: value for name, value in environment_without_keys().items() if not name.startswith("PREFECT_")
    }
    keys = {name: value for name in (HUB_TOKEN, settings.api_key_env) if (value := os.environ.get(name))}
    return kept | keys | {"PYTHONUNBUFFERED": "1"}


@contextmanager
def job_failed_as_user_error(out: Path) -> Iterator[None]:
    """Convert a `JobFailed` of the block to a `UserError` if the job wrote what the user can fix."""
    (out / PROBLEMS).unlink(missing_ok=True)  # of an earlier start
    try:
        yield
    except JobFailed as error:
        if (out / PROBLEMS).exists():
            raise UserError((out / PROBLEMS).read_text(encoding="utf-8").strip()) from error
        raise


def result_folders(lines: Sequence[str]) -> list[Path]:
    """Return the folders that the job named."""
    return [Path(line.partition(RESULT)[2].strip()) for line in lines if RESULT in line]


def result_rows(folders: Sequence[Path]) -> list[dict[str, str]]:
    """Return one row for each result: benchmark, protocol, main score with its interval, Math-Verify's score."""
    return [
        _row(json.loads((folder / "metrics.json").read_text(encoding="utf-8")), folder) for folder in folders
    ]


def _row(numbers: Mapping[str, Any], folder: Path) -> dict[str, str]:
    main = numbers["scores"].get(numbers.get("main"))
    return {
        "benchmark": numbers["benchmark"]["title"], "protocol": folder.name, "score": numbers.get("main") or "none",
        "value": "" if main is None else f"{main['value']:.2%} [{main['low']:.2%}, {main['high']:.2%}]",
        "Math-Verify": f"{numbers['math_verify']['score']:.2%}" if "math_verify" in numbers else "",
        "problems": f"{numbers['benchmark']['problems']:,}", "truncated": f"{numbers['counts']['truncated']:,}",
    }  # fmt: skip
