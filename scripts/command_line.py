"""What the commands of `make` share: sentences, settings from the environment, and ending with whoever started them."""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from typing import Any

from tasks.core.errors import UserError

INTERRUPTED = 130
"""Exit status after Ctrl-C."""
PR_SET_PDEATHSIG = 1


def say(text: str) -> None:
    """One line in plain words."""
    print(f"sure-math: {text}", flush=True)


def read_overrides(text: str) -> dict[str, Any]:
    """A JSON object such as {"select.target": 50}; `UserError` when it is none."""
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise UserError(
            f"OVERRIDES is no JSON ({error}): write e.g. OVERRIDES='{{\"select.target\": 50}}'"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"OVERRIDES is {text!r}: write a JSON object, e.g. OVERRIDES='{{\"select.target\": 50}}'"
        )
    return value


def read_port(text: str) -> int | None:
    """A TCP port, or None for any; `UserError` when it is neither."""
    if text and not (text.isdecimal() and 0 < int(text) < 65536):
        raise UserError(f"PORT is {text!r}: give a number from 1 to 65535, or leave it unset")
    return int(text) if text else None


def end_with_parent() -> None:
    """Let the end of `make` (also by `kill -9`), SIGTERM and a closed terminal act as Ctrl-C does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
