"""A lock is held by one process and released when that process ends, also by `kill -9`."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.storage import locks
from tasks.storage.locks import alone, read_note, take_lock

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
    lock = tmp_path / "out" / "run.lock"
    first = holder(lock)
    try:
        started = time.monotonic()
        with pytest.raises(UserError) as refusal, alone(lock, "an annotation"):
            pytest.fail("two at once")
        assert (
            time.monotonic() - started < 10
        )  # whoever waited for the lock would wait until the first is killed below
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


@pytest.mark.parametrize(
    "note",
    [b"", b"{", b"\xff\xfe", b"[1]", b"3", b'{"pid": {"x": 1}}', b"[" * 100_000, bytes(1 << 20)],
)
def test_a_damaged_note_blocks_nothing_and_is_replaced(tmp_path: Path, note: bytes) -> None:
    lock = tmp_path / "run.lock"
    lock.write_bytes(note)
    assert isinstance(read_note(lock), dict)
    with alone(lock, "a build"):
        assert read_note(lock)["what"] == "a build"
        with pytest.raises(UserError, match="a build is already running"), alone(lock, "another"):
            pytest.fail("two at once")
        lock.write_bytes(note)  # the note of the holder
        with (
            pytest.raises(UserError, match="is already running"),
            alone(lock, "another"),
        ):
            pytest.fail("two at once")


def test_a_link_in_the_place_of_a_lock_is_refused_and_its_target_is_unchanged(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("keep")
    for name, goal in (("a.lock", target), ("b.lock", tmp_path / "nowhere")):
        (tmp_path / name).symlink_to(goal)
        with (
            pytest.raises(UserError, match=rf"{name} cannot be opened \(it is a symbolic link\): remove"),
            alone(tmp_path / name, "a build"),
        ):
            pytest.fail("a lock through a link")
    assert target.read_text() == "keep" and not (tmp_path / "nowhere").exists()


def test_a_folder_in_the_place_of_a_lock_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.lock").mkdir()
    with (
        pytest.raises(UserError, match=r"run\.lock cannot be opened \(Is a directory\)"),
        alone(tmp_path / "run.lock", "a build"),
    ):
        pytest.fail("no lock")


def test_a_full_disk_leaves_the_note_empty_and_the_lock_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(locks.json, "dump", full)
    with (
        alone(tmp_path / "run.lock", "a build"),
        pytest.raises(UserError, match=r"another is already running .*process unknown"),
        alone(tmp_path / "run.lock", "another"),
    ):
        pytest.fail("two at once")


def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    """As an engine process that outlives the flow which forked it by some seconds."""
    code = """
import os, sys, time
from pathlib import Path
from tasks.storage.locks import take_lock
lock = take_lock(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run.lock")],
        cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert take_lock(tmp_path / "run.lock") is None
        parent.kill()
        parent.wait()
        with alone(
            tmp_path / "run.lock", "a build", wait_s=30.0
        ):  # the child forgets the lock when it first runs
            os.kill(child, 0)  # it is still there
    finally:
        parent.kill()
        os.kill(child, signal.SIGKILL)
