"""Errors of the user are logged once and without traceback; a silent phase is described every few seconds."""

from __future__ import annotations

import logging
import time

import pytest

from tasks.errors import UserError
from tasks.runtime import phases
from tasks.runtime.plain_errors import PlainErrors


def record_of(error: BaseException, message: str = "Task run failed with exception: %r") -> logging.LogRecord:
    try:
        raise error
    except BaseException as raised:
        info = (type(raised), raised, raised.__traceback__)
        return logging.LogRecord("prefect", logging.ERROR, __file__, 1, message, (raised,), info)


def test_an_error_of_the_user_is_logged_once_as_its_sentence() -> None:
    filter_, error = PlainErrors(), UserError("100% of x is missing: add it")
    first, second = record_of(error), record_of(error, "Encountered exception during execution: %r")
    assert filter_.filter(first) and not filter_.filter(second)
    assert first.getMessage() == "100% of x is missing: add it" and first.exc_info is None
    assert filter_.filter(record_of(UserError("another")))


def test_a_defect_keeps_its_traceback_and_a_signal_has_none() -> None:
    filter_ = PlainErrors()
    defect, stop = record_of(ValueError("x")), record_of(KeyboardInterrupt())
    assert filter_.filter(defect) and defect.exc_info is not None
    assert filter_.filter(stop) and stop.exc_info is None


def test_only_the_innermost_phase_speaks_and_only_after_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "NOTICE_S", 0.2)
    monkeypatch.setattr(phases, "CHECK_S", 0.02)
    said: list[str] = []
    with phases.phase(said.append, lambda _: "outer"):
        with phases.phase(said.append, lambda _: "inner"):
            time.sleep(0.5)
        assert set(said) == {"inner"} and 1 <= len(said) <= 3
        said.clear()
        for _ in range(10):
            time.sleep(0.05)
            logging.getLogger("prefect.flow_runs").error("a line")  # the phase stays silent
        assert said == []
        time.sleep(0.4)
    assert set(said) == {"outer"}
