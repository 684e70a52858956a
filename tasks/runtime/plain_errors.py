"""Log an error that the user can fix once, as its sentence and without tracebacks."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from prefect.exceptions import TerminationSignal

from tasks.errors import UserError
from tasks.runtime.overlap import OtherStageFailed

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
"""The loggers to which Prefect's engine writes the exceptions of flows and tasks."""
PLAIN = (UserError, OtherStageFailed)
SIGNALS = (KeyboardInterrupt, TerminationSignal)


class PlainErrors(logging.Filter):
    """Replaces a record with a `UserError` by its message, drops the repetitions, and removes the tracebacks of signals.

    Task, flow and process log an exception one after the other as it passes through them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be logged; may change it."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, PLAIN):
            repeated, self._last = error is self._last, error
            record.msg, record.args = "%s", (str(error),)
            record.exc_info = record.exc_text = None
            return not repeated
        if isinstance(error, SIGNALS):
            record.exc_info = record.exc_text = None
        return True


def log_plainly() -> None:
    """Install the filter in this process, and end it without a traceback after a signal."""
    if any(isinstance(one, PlainErrors) for one in logging.getLogger(LOGGERS[0]).filters):
        return
    shared = PlainErrors()
    for name in LOGGERS:
        logging.getLogger(name).addFilter(shared)
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, SIGNALS):
            usual(kind, error, trace)

    sys.excepthook = hook
