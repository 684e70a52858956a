"""Lines that a training run prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tasks.processes.ticker import NOTICE_S, ticking
from tasks.text import visible

_printed = [time.monotonic()]


def log_line(text: str) -> None:
    """Print one log line, above the progress bar if there is one."""
    _printed[0] = time.monotonic()
    print(f"train: {visible(text)}", flush=True)


def show_table(text: str) -> None:
    """Print a table as it is. Of the output of a run in a flow, only the lines of `log_line` are shown, and all of it is kept."""
    print(text, flush=True)


@contextmanager
def phase(describe: Callable[[float], str]) -> Iterator[None]:
    """Print `describe(seconds since the start of the block)` whenever no line was printed for `NOTICE_S` seconds."""

    def tick(seconds: float) -> None:
        if time.monotonic() - _printed[0] >= NOTICE_S:
            log_line(describe(seconds))

    with ticking(tick, 1.0):
        yield
