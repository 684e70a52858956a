"""Call a function at regular intervals while a block runs, so that no phase of a program is silent for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NOTICE_S = 7.0
"""Seconds between two lines of a phase that has nothing else to report; no phase is silent for more than ten seconds."""
LAYER_S = 1.0
"""A program that shows the output of another one waits this much longer, so that the inner one speaks first."""


@contextmanager
def ticking(call: Callable[[float], None], every_s: float = NOTICE_S) -> Iterator[None]:
    """Call `call(seconds)` every `every_s` seconds, in a thread, with the seconds since the block began."""
    ended, began = threading.Event(), time.monotonic()

    def tick() -> None:
        while not ended.wait(every_s):
            call(time.monotonic() - began)

    thread = threading.Thread(target=tick, name="ticker", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
