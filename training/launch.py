"""`python -m training.launch RUN.json [--check]`: start a distillation run, or say in seconds what it would do.

The check loads neither torch nor ray nor vllm and takes no GPU. Exit codes: 0 fine, 2 something that you can mend (one
sentence each on standard error, and alone in the file of `--problems`), 3 stopped on request: started again, it continues.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tasks.core.errors import UserError
from training.check import inspect, report
from training.config import RunConfig, load_run

STOPPED = 3


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.launch", description="Distil a student from a teacher."
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN.json", help="settings of the run (see training/config.py)"
    )
    parser.add_argument(
        "--check", action="store_true", help="look at settings, data, models and memory, then stop"
    )
    parser.add_argument(
        "--problems",
        type=Path,
        metavar="FILE",
        help="write here, too, what you can mend: one sentence a line",
    )
    arguments = parser.parse_args(argv)
    try:
        run = load_run(arguments.run)
        if not arguments.check:
            return train(run)
        problems = check(run)
    except UserError as error:
        problems = (str(error),)
    return tell(problems, arguments.problems)


def train(run: RunConfig) -> int:
    """Train to the end: 0; 3 when it was asked to stop and has written a checkpoint."""
    from training.loop import Stopped
    from training.loop import run as train_it

    try:
        train_it(run)
    except Stopped as stopped:
        print(f"train: {stopped}", flush=True)
        return STOPPED
    return 0


def check(run: RunConfig) -> tuple[str, ...]:
    """Print what the run would do and the bytes that each device needs; gives every problem."""
    found = inspect(run)
    if found.prepared is not None:
        print(report(found.prepared))
    if found.table:
        print(found.table)
    return found.problems


def tell(problems: Sequence[str], path: Path | None) -> int:
    """Print problems on standard error, where engines write too, and into the file; the exit code, 2 when there is one."""
    text = "".join(f"{problem}\n" for problem in problems)
    print(text, end="", file=sys.stderr)
    if problems and path is not None:
        with suppress(OSError):  # the problem may be a full disk
            path.write_text(text, encoding="utf-8")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
