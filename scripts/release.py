"""`make release`: run the flow sure-math-release in this process, with the same Prefect server as `make build`.

    make release                                          # check the dataset and write its release folder
    make release UPLOAD=1 REPO=owner/name VERSION=1.1.0   # and send it
    make release REPO=owner/name ROLL_BACK_TO=1.0.0       # make the repository contain that version again

All settings come from the environment. Without UPLOAD=1 nothing is sent. The token is that of HF_TOKEN or of SECRET_BLOCK.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from annotate import served
from command_line import INTERRUPTED, end_with_parent, log_error, log_line, read_overrides

from tasks.config import load_config
from tasks.errors import UserError

SWITCHES = {"": False, "0": False, "1": True}


def parameters(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters of the flow. Raises `UserError` for an invalid setting."""
    given = {
        name: environment.get(name) or None for name in ("REPO", "LICENCE", "ROLL_BACK_TO", "SECRET_BLOCK")
    }
    profile, overrides = (
        environment.get("PROFILE") or "pocket",
        read_overrides(environment.get("OVERRIDES", "")),
    )
    load_config(profile, overrides)
    what = environment.get("WHAT") or "dataset"
    if what not in ("dataset", "model"):
        raise UserError(f"WHAT is {what!r}: write dataset or model")
    paths = {
        name.lower(): str(Path(environment[name]).expanduser().resolve()) if environment.get(name) else None
        for name in ("SOURCE", "PREVIOUS")
    }
    evaluations = [
        str(Path(one).expanduser().resolve()) for one in (environment.get("EVALUATIONS") or "").split()
    ]
    return {
        "what": what, "profile": profile, "overrides": overrides, "version": environment.get("VERSION") or "1.0.0",
        "dry_run": not _switch(environment, "UPLOAD"), "private": not _switch(environment, "PUBLIC"),
        "datasets": (environment.get("DATASETS") or "").split(), "evaluations": evaluations or None,
        **{name.lower(): value for name, value in given.items()}, **paths,
    }  # fmt: skip


def _switch(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "")
    if value not in SWITCHES:
        raise UserError(f"{name} is {value!r}: write {name}=1, or leave it unset")
    return SWITCHES[value]


def main() -> int:
    """Return 0 if the flow completed, 1 with a message after a `UserError`, 130 after Ctrl-C."""
    try:
        found = parameters(os.environ)
        with served("flows.release"):
            from flows.release import release

            log_line(str(release(**found)))
        return 0
    except UserError as error:
        log_error(error)
        return 1
    except KeyboardInterrupt:
        log_line("interrupted; run the same command again to continue")
        return INTERRUPTED


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
