"""A lock is held by one process and released when that process ends, also by `kill -9`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.storage.locks import alone, read_note

HOLDER = """
import sys, time
from pathlib import Path
from tasks.storage.locks import alone
with alone(Path(sys.argv[1]), "a re-annotation"):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(lock: Path) -> subprocess.Popen[str]:
    """A process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_refused_at_once_and_admitted_after_the_first_was_killed(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "out" / "annotation.lock"
    first = holder(lock)
    try:
        started = time.monotonic()
        with pytest.raises(UserError) as refusal, alone(lock, "an annotation"):
            pytest.fail("two at once")
        assert time.monotonic() - started < 1.0
        assert "a re-annotation is already running" in str(refusal.value)
        assert f"process {first.pid}, since 2" in str(refusal.value) and "wait for it" in str(refusal.value)
        os.kill(first.pid, signal.SIGKILL)
    finally:
        first.kill()
        first.wait()
    with alone(lock, "an annotation"):
        assert read_note(lock)["pid"] == str(os.getpid()) and read_note(lock)["what"] == "an annotation"


def test_a_waiting_process_is_notified_once_and_admitted_when_the_holder_ends(tmp_path: Path) -> None:
    lock, reported = tmp_path / "run.lock", list[str]()
    first = holder(lock)

    def end(sentence: str) -> None:
        reported.append(sentence)
        first.kill()

    with alone(lock, "a run", wait_s=60.0, on_wait=end):
        assert read_note(lock)["what"] == "a run"
    first.wait()
    (sentence,) = reported
    assert sentence.startswith("a re-annotation is already running in ") and "waiting up to 60 s" in sentence


def test_waiting_ends_with_an_error_after_the_timeout(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    first = holder(lock)
    try:
        with pytest.raises(UserError, match="is already running"), alone(lock, "a run", wait_s=0.6):
            pytest.fail("two at once")
    finally:
        first.kill()
        first.wait()
