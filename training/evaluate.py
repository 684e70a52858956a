"""`python -m training.evaluate`: evaluate a model on benchmarks.

    python -m training.evaluate --model pocket/student --benchmarks pocket --protocols pass1_greedy --set max_tokens=256

All settings are in tasks/evaluate_settings.py; `--set name=value` sets one of them (the value is JSON, or a text), `--settings`
reads a JSON file. Exit codes: 0 success; 2 a problem that the user can fix, one sentence each on standard error and in the file
of `--problems`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from tasks.config import explain
from tasks.errors import UserError
from tasks.evaluate_settings import EvaluateSettings
from tasks.given_settings import given_entries, given_file
from tasks.text import visible


def log_line(text: str) -> None:
    """Print one line."""
    print(f"evaluate: {visible(text)}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Evaluate a model on benchmarks."
    )
    parser.add_argument(
        "--model", help="folder of a checkpoint or an adapter, hub id, or model of an endpoint"
    )
    parser.add_argument(
        "--benchmarks", help="names of tasks/benchmarks, by commas; name=PATH for a local copy"
    )
    parser.add_argument(
        "--protocols", help="names of tasks/benchmarks/protocols.py, by commas, or `declared`"
    )
    parser.add_argument("--out", help="folder of the results")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another setting")
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="JSON file of settings, which the options override"
    )
    parser.add_argument("--problems", type=Path, metavar="FILE", help="also write problems to this file")
    arguments = parser.parse_args(argv)
    try:
        settings = read_settings(arguments)
        from training.evaluation.harness import evaluate

        evaluate(settings, log_line)
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        if arguments.problems is not None:
            with suppress(OSError):  # the problem may be a full disk
                arguments.problems.write_text(f"{error}\n", encoding="utf-8")
        return 2
    return 0


def read_settings(arguments: argparse.Namespace) -> EvaluateSettings:
    """Return the settings of the command line. Raises `UserError` that names the wrong one."""
    data = {} if arguments.settings is None else given_file(arguments.settings, "an evaluation")
    for name in ("model", "out"):
        if (value := getattr(arguments, name)) is not None:
            data[name] = value
    for name in ("benchmarks", "protocols"):
        if (value := getattr(arguments, name)) is not None:
            data[name] = [one.strip() for one in value.split(",") if one.strip()]
    data |= given_entries(arguments.set)
    try:
        return EvaluateSettings.model_validate(data)
    except ValidationError as error:
        raise UserError(explain(error, "evaluate", "tasks/evaluate_settings.py")) from error


if __name__ == "__main__":
    sys.exit(main())
