"""`python -m training.launch RUN.json [--check]`: start a distillation run, or check it within seconds.

The check does not load torch, ray or vllm and does not use a GPU. Exit codes: 0 success; 2 a problem that the user can fix (one
sentence each on standard error and in the file of `--problems`); 3 stopped on request: start the command again to continue.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tasks.errors import UserError
from training.config import RunConfig, load_run
from training.console import log_line
from training.preflight.check import inspect, report

STOPPED = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.launch", description="Distil a student from a teacher."
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN.json", help="settings of the run (see training/config.py)"
    )
    parser.add_argument(
        "--check", action="store_true", help="check settings, data, models and memory, then stop"
    )
    parser.add_argument(
        "--problems",
        type=Path,
        metavar="FILE",
        help="also write the problems to this file, one sentence per line",
    )
    arguments = parser.parse_args(argv)
    try:
        run = load_run(arguments.run)
        if not arguments.check:
            return train(run)
        problems = check(run)
    except UserError as error:
        problems = (str(error),)
    return print_problems(problems, arguments.problems)


def train(run: RunConfig) -> int:
    """Run the training. Returns 0 at the end, or 3 if it was stopped on request, after writing a checkpoint."""
    from training.loop import Stopped
    from training.loop import run as train_it

    try:
        train_it(run)
    except Stopped as stopped:
        log_line(str(stopped))
        return STOPPED
    return 0


def check(run: RunConfig) -> tuple[str, ...]:
    """Print a summary of the run and its memory plan, and return all problems."""
    found = inspect(run)
    if found.prepared is not None:
        print(report(found.prepared))
    if found.table:
        print(found.table)
    return found.problems


def print_problems(problems: Sequence[str], path: Path | None) -> int:
    """Print problems to standard error (shared with the engines' output) and write them to the file; return the exit code."""
    text = "".join(f"{problem}\n" for problem in problems)
    print(text, end="", file=sys.stderr)
    if problems and path is not None:
        with suppress(OSError):  # the problem may be a full disk
            path.write_text(text, encoding="utf-8")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
