"""Atomic writes of files and folders, safe against `kill -9` and full disks.

A writer uses a temporary sibling name (`.tmp-<name>-<12 hex digits>`), which it keeps locked (flock)
while it runs; contents are fsynced, then renamed into place. The lock distinguishes leftovers of dead writers from
the work of live ones: leftovers are removed when the same name is written again. On file systems without
such locks, leftovers remain.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.errors import UserError

_TEMPORARY = re.compile(r"\.(?P<kind>tmp|old)-(?P<name>.+)-[0-9a-f]{12}")
FULL = (errno.ENOSPC, errno.EDQUOT)
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)


@contextmanager
def named_full_disk(path: Path, needed: Callable[[], int]) -> Iterator[None]:
    """Turn "no space left" errors inside the block into a `UserError` that names `path` and the minimum number of bytes that
    it needs.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"The disk is full: {path} needs at least {needed():,} bytes; free some space or choose another"
            " output folder, then start again (finished work is kept)."
        ) from error


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises `UserError` if a file is in the way or permission is denied."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(
            f"Cannot create the folder {path} ({error.strerror}): choose another output folder, or remove the"
            " obstacle."
        ) from error


def sync_folder(path: Path) -> None:
    """Call fsync on a folder, which makes the renames in it durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file (text as UTF-8) atomically, replacing an existing one: readers see either the old or the new content.

    Raises `UserError` if the disk is full or the folder cannot be created.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    make_folder(path.parent)
    sweep(path.parent, path.name)
    temporary, lock = _claim_new(path, _open_new_file)
    try:
        with named_full_disk(path, lambda: len(content)):
            view = memoryview(content)
            while view:
                view = view[os.write(lock, view) :]
            os.fsync(lock)
        os.rename(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `path` if the block succeeds and is removed otherwise.

    Raises `FileExistsError` if `path` exists (or another writer was faster), unless `replace`: then the
    new folder replaces the old one; after a kill between the two renames, the next writer restores the old one. Raises
    `UserError` if the disk is full.
    """
    make_folder(path.parent)
    sweep(path.parent, path.name)
    if path.exists() and not replace:
        raise FileExistsError(errno.EEXIST, "already there", str(path))
    temporary, lock = _claim_new(path, _open_new_folder)
    try:
        with named_full_disk(path, lambda: _size(temporary) + 1):
            yield temporary
            _sync_tree(temporary)
        _put_in_place(temporary, path, replace)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # already renamed if the block succeeded
        os.close(lock)


def remove_folder(path: Path) -> None:
    """Remove a folder atomically: rename it, then delete it. Does nothing if it does not exist."""
    with suppress(FileNotFoundError):
        aside = _sibling(path, "tmp")
        os.rename(path, aside)
        shutil.rmtree(aside)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove the leftovers of dead writers of `name` (None: of any name) in `folder`, and restore folders that they were
    replacing.
    """
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for entry in entries:
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None or name not in (None, match["name"]):
            continue
        with suppress(FileNotFoundError), _dead(entry) as dead:
            target = entry.with_name(match["name"])
            if dead and match["kind"] == "old" and not target.exists():
                os.rename(entry, target)
            elif dead and entry.is_dir():
                shutil.rmtree(entry)
            elif dead:
                entry.unlink()


@contextmanager
def _dead(path: Path) -> Iterator[bool]:
    """Yield whether the writer of a temporary is dead; if so, the temporary is locked by this process inside the block."""
    handle = os.open(path, os.O_RDONLY)
    try:
        yield _lock(handle, wait=False) and _is_open_at(handle, path)
    finally:
        os.close(handle)


def _lock(handle: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        return False
    return True


def _is_open_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _sibling(path: Path, kind: str) -> Path:
    return path.with_name(f".{kind}-{path.name}-{secrets.token_hex(6)}")


def _open_new_file(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)


def _open_new_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _claim_new(path: Path, open_new: Callable[[Path], int]) -> tuple[Path, int]:
    """Create and lock a temporary next to `path`. If a sweep removes it before it is locked, tries again with another name."""
    while True:
        temporary = _sibling(path, "tmp")
        try:
            handle = open_new(temporary)
        except FileNotFoundError:
            continue
        _lock(handle, wait=True)
        if _is_open_at(handle, temporary):
            return temporary, handle
        os.close(handle)


def _put_in_place(temporary: Path, path: Path, replace: bool) -> None:
    while True:
        with _set_aside(path, replace):
            try:
                os.rename(temporary, path)
            except OSError as error:
                if error.errno not in _OCCUPIED:
                    raise
                if not replace:
                    raise FileExistsError(errno.EEXIST, "already there", str(path)) from error
                continue  # another writer was faster: its folder is now the one to replace
            sync_folder(path.parent)
            return


@contextmanager
def _set_aside(path: Path, replace: bool) -> Iterator[None]:
    """Lock an old folder and move it aside; afterwards delete it, or restore it if nothing has replaced it."""
    if not (replace and path.exists()):
        yield
        return
    handle, aside = os.open(path, os.O_RDONLY), _sibling(path, "old")
    try:
        _lock(handle, wait=True)
        with suppress(FileNotFoundError):  # another writer moved it
            os.rename(path, aside)
        try:
            yield
        finally:
            if path.exists():
                shutil.rmtree(aside, ignore_errors=True)
            elif aside.exists():
                os.rename(aside, path)
    finally:
        os.close(handle)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            handle = os.open(os.path.join(parent, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(parent))
