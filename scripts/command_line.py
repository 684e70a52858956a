"""Shared helpers of the `make` commands: messages, settings from the environment, and exit with the parent process."""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.errors import UserError
from tasks.processes.ticker import ticking
from tasks.text import visible

INTERRUPTED = 130
"""Exit status after Ctrl-C."""
PR_SET_PDEATHSIG = 1


def log_line(text: str) -> None:
    """Print one message line, with controls made visible."""
    print(f"sure-math: {visible(text)}", flush=True)


def log_error(error: UserError) -> None:
    """Print every sentence of an error on a line of its own."""
    for line in str(error).splitlines():
        log_line(line)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Print `what` is done, and while the block runs how long it has taken so far."""
    log_line(what)
    with ticking(lambda seconds: log_line(f"{what}, {seconds:.0f} s")):
        yield


def read_overrides(text: str) -> dict[str, Any]:
    """Parse a JSON object such as {"select.target": 50}; raises `UserError` if the text is not a JSON object."""
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise UserError(
            f"OVERRIDES is not valid JSON ({error}): write e.g. OVERRIDES='{{\"select.target\": 50}}'"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"OVERRIDES is {text!r}, not a JSON object: write e.g. OVERRIDES='{{\"select.target\": 50}}'"
        )
    return value


def read_port(text: str) -> int | None:
    """Parse a TCP port; None if the text is empty. Raises `UserError` if it is not a valid port."""
    if text and not (text.isdecimal() and 0 < int(text) < 65536):
        raise UserError(
            f"PORT is {text!r}, not a TCP port: set it to a number from 1 to 65535, or leave it unset"
        )
    return int(text) if text else None


def end_with_parent() -> None:
    """Treat SIGTERM, a closed terminal and the end of the parent `make` (also by `kill -9`) like Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
