"""Say what a run is doing whenever its log has been silent for some seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tasks.processes.ticker import LAYER_S, ticking
from tasks.processes.ticker import NOTICE_S as INNER_S

LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
CHECK_S = 1.0
NOTICE_S = INNER_S + LAYER_S


class LastLine(logging.Handler):
    """Remembers when the last record was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.at = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Remember this moment."""
        self.at = time.monotonic()


_last = LastLine()
_phases: list[object] = []


@contextmanager
def phase(log: Callable[[str], None], describe: Callable[[float], str]) -> Iterator[None]:
    """Log `describe(seconds since the start of the block)` whenever nothing was logged for `NOTICE_S` seconds.

    Of nested phases only the innermost is described.
    """
    for name in LOGGERS:
        logging.getLogger(name).addHandler(_last)  # does nothing the second time
    if not _phases:
        _last.at = time.monotonic()
    me = object()
    _phases.append(me)

    def tick(seconds: float) -> None:
        if _phases[-1:] == [me] and time.monotonic() - _last.at >= NOTICE_S:
            _last.at = time.monotonic()  # `log` may write elsewhere
            log(describe(seconds))

    try:
        with ticking(tick, CHECK_S):
            yield
    finally:
        _phases.remove(me)
