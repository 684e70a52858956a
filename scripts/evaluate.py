"""`make evaluate` and `make compare`.

    MODEL=pocket/student BENCHMARKS=pocket PROTOCOLS=avg16 scripts/evaluate.py evaluate
    A=output/evaluations/first B=output/evaluations/second scripts/evaluate.py compare

`evaluate` runs the flow sure-math-evaluate in this process, with the same Prefect server as `make build`; `compare` prints a
paired table of two models and writes a page. All settings come from the environment, so that no shell reads them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from annotate import served
from command_line import INTERRUPTED, end_with_parent, log_error, log_line, read_overrides

from tasks.config import PROJECT_ROOT, load_config
from tasks.errors import UserError
from tasks.runtime.evaluation import evaluation_settings


def evaluate() -> int:
    """Run the flow; settings that are wrong are reported before anything starts."""
    profile, overrides = (
        os.environ.get("PROFILE") or "pocket",
        read_overrides(os.environ.get("OVERRIDES", "")),
    )
    given: dict[str, Any] = {"model": os.environ.get("MODEL", "")}
    given |= {name.lower(): listed(os.environ.get(name, "")) for name in ("BENCHMARKS", "PROTOCOLS")}
    evaluation_settings(
        load_config(profile, overrides), {key: value for key, value in given.items() if value}
    )
    with served("flows.evaluate"):
        from flows.evaluate import evaluate as run

        log_line(f"results in {run(**given, profile=profile, overrides=overrides)}")
    return 0


def listed(text: str, separator: str = ",") -> list[str]:
    """Return the names of a list that is written with a separator between them."""
    return [name.strip() for name in text.split(separator) if name.strip()]


def compare() -> int:
    """Compare the models in the folders A and B."""
    first, second = os.environ.get("A", ""), os.environ.get("B", "")
    if not first or not second:
        raise UserError(
            "A and B are required, e.g. make compare A=output/evaluations/one B=output/evaluations/two"
        )
    return subprocess.run(
        [sys.executable, "-m", "training.compare", first, second], cwd=PROJECT_ROOT, check=False
    ).returncode


def main(arguments: Sequence[str]) -> int:
    """Return 0 if the command completed, 1 with a message after a `UserError`, 2 for an unknown command, 130 after Ctrl-C."""
    commands = {"evaluate": evaluate, "compare": compare}
    if len(arguments) != 1 or arguments[0] not in commands:
        log_line(f"usage: scripts/evaluate.py {'|'.join(commands)}")
        return 2
    try:
        return commands[arguments[0]]()
    except UserError as error:
        log_error(error)
        return 1
    except KeyboardInterrupt:
        log_line("interrupted; finished samples are kept, run the same command again to continue")
        return INTERRUPTED


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1:]))
