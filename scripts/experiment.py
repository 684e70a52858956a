"""`make experiment`.

    NAME=pocket/learning ONLY="OPD;UOPD" SEEDS=0,1 MAX_HOURS=2 RESULTS=results/cells scripts/experiment.py

It runs the flow sure-math-experiment in this process, with the same Prefect server as `make build`. All settings come from the
environment, so that no shell reads them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from annotate import served
from command_line import INTERRUPTED, end_with_parent, log_error, log_line
from evaluate import listed

from tasks.errors import UserError


def parameters(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters of the flow that are given. Raises `UserError` for a value that is no number."""
    found: dict[str, Any] = {
        "experiment": environment.get("NAME", ""),
        "results": environment.get("RESULTS", ""),
        "only": listed(environment.get("ONLY", ""), ";"),
    }
    hours = environment.get("MAX_HOURS", "")
    try:
        found["seeds"] = [int(seed) for seed in listed(environment.get("SEEDS", ""))]
        found["max_hours"] = float(hours) if hours else None
    except ValueError as error:
        raise UserError(
            f"SEEDS or MAX_HOURS is not a number ({error}): write SEEDS=0,1 and MAX_HOURS=2.5"
        ) from error
    return {name: value for name, value in found.items() if value not in ("", [], None)}


def main() -> int:
    """Return 0 if all cells have results, 1 with a message after a `UserError`, 130 after Ctrl-C."""
    try:
        given = parameters(os.environ)
        with served("flows.experiment"):
            from flows.experiment import experiment

            log_line(f"results in {experiment(**given)}")
    except UserError as error:
        log_error(error)
        return 1
    except KeyboardInterrupt:
        log_line("interrupted; finished cells are kept, run the same command again to continue")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
