"""File locks of the operating system (flock): at most one process holds a lock, and the lock is released when the process
ends for any reason. The file's content describes its holder and is informational only: a damaged one blocks nothing, and a
symbolic link in its place is refused, since writing would change its target."""

from __future__ import annotations

import fcntl
import json
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from tasks.errors import UserError
from tasks.storage.disk import make_folder

WAIT_STEP_S = 0.5
_NOTE_BYTES = 1 << 16


def take_lock(path: Path) -> IO[str] | None:
    """Take the lock and return the open file, or None if another process holds it. The lock is released when the file is
    closed or this process ends; processes that it forks do not hold it.

    Raises `UserError` if the file cannot be opened or locked.
    """
    make_folder(path.parent)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        why = "it is a symbolic link" if path.is_symlink() else error.strerror
        raise UserError(
            f"The lock {path} cannot be opened ({why}): remove it, or make it writable"
        ) from error
    file = os.fdopen(handle, "r+", encoding="utf-8", errors="replace")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        raise UserError(
            f"The lock {path} cannot be taken ({error.strerror}): choose a folder on a file system with locks"
        ) from error
    _held.add(file)
    return file


_held: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def _forget() -> None:
    """Replace the lock files in a forked process, which would keep the locks after the end of this one."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for file in list(_held):
        with suppress(OSError, ValueError):  # closed
            os.dup2(null, file.fileno(), inheritable=False)
    os.close(null)


os.register_at_fork(after_in_child=_forget)


def write_note(file: IO[str], note: Mapping[str, object]) -> None:
    """Replace the description of the holder in a lock file; on a full disk it stays empty."""
    with suppress(OSError):
        file.seek(0)
        file.truncate()
        json.dump(note, file)
        file.flush()


def read_note(path: Path) -> dict[str, str]:
    """Return what the last holder of a lock wrote; empty if there is no complete note."""
    try:
        with path.open("rb") as file:
            note = json.loads(file.read(_NOTE_BYTES))
    except (OSError, ValueError, RecursionError):
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
