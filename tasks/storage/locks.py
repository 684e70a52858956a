"""File locks of the operating system (flock): at most one process holds a lock, and the lock is released when the process
ends for any reason. The file's content describes its holder and is informational only."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from tasks.errors import UserError
from tasks.storage.disk import make_folder

WAIT_STEP_S = 0.5


def take_lock(path: Path) -> IO[str] | None:
    """Take the lock and return the open file, or None if another process holds it. The lock is released when the file is
    closed or this process ends."""
    make_folder(path.parent)
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def write_note(file: IO[str], note: Mapping[str, object]) -> None:
    """Replace the description of the holder in a lock file."""
    file.seek(0)
    file.truncate()
    json.dump(note, file)
    file.flush()


def read_note(path: Path) -> dict[str, str]:
    """Return what the last holder of a lock wrote; empty if there is no complete note."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return {key: str(value) for key, value in note.items()} if isinstance(note, dict) else {}


@contextmanager
def alone(
    path: Path, what: str, *, wait_s: float = 0.0, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock for the length of the block; `what` names the work in messages.

    If another process holds it, waits up to `wait_s` seconds, after one call of `on_wait` with a message, then raises
    `UserError`.
    """
    until, notified = time.monotonic() + wait_s, False
    while (lock := take_lock(path)) is None:
        note = read_note(path)
        held = (
            f"{note.get('what', what)} is already running in {path.parent} (process {note.get('pid', 'unknown')}, since"
            f" {note.get('since', 'an unknown time')})"
        )
        if time.monotonic() >= until:
            raise UserError(f"{held}: wait for it or end that process; this run has changed nothing")
        if on_wait is not None and not notified:
            on_wait(f"{held}: waiting up to {wait_s:.0f} s for it to finish")
        notified = True
        time.sleep(WAIT_STEP_S)
    with lock:
        since = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"
        write_note(lock, {"what": what, "pid": os.getpid(), "since": since})
        yield
