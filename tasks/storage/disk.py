"""Atomic writes of files and folders, safe against `kill -9` and full disks.

A writer uses a temporary sibling name (`.tmp-<name>-<12 hex digits>`), which it keeps locked (flock)
while it runs; contents are fsynced, then renamed into place. The lock distinguishes leftovers of dead writers from
the work of live ones: leftovers are removed when the same name is written again. On file systems without
such locks, leftovers remain.

A symbolic link at the place of a file is replaced, never followed; one at the place of a folder is refused, since
replacing the folder would remove the link. The parents of both may be links.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.errors import UserError

_TEMPORARY = re.compile(r"\.(?P<kind>tmp|old)-(?P<name>.+)-[0-9a-f]{12}", re.DOTALL)
FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)
_TRIES = 100
"""Attempts against other writers and sweeps of the same name."""


@contextmanager
def disk_errors(path: Path, needed: Callable[[], int] = lambda: 1) -> Iterator[None]:
    """Turn the errors of a full, read-only, forbidden or broken disk inside the block into a `UserError` that names the file.

    `needed` returns the minimum number of bytes that `path` needs, for the message about a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, *DENIED, errno.EIO):
            raise
        raise UserError(_disk_problem(path, error, needed)) from error


def _disk_problem(path: Path, error: OSError, needed: Callable[[], int]) -> str:
    if error.errno not in FULL:
        where, how = Path(error.filename or path), "check the disk"
        where = path if _TEMPORARY.fullmatch(where.name) else where
        if error.errno in DENIED:
            how = "make it accessible and writable, or choose another output folder"
        return f"{where} cannot be read or written ({error.strerror}): {how}, then start again (finished work is kept)."
    if _has_no_inodes(path):
        return (
            f"The disk has no free inodes: {path} cannot be created; delete some files or choose another output folder, then"
            " start again (finished work is kept)."
        )
    return (
        f"The disk is full: {path} needs at least {needed():,} bytes; free some space or choose another"
        " output folder, then start again (finished work is kept)."
    )


def _has_no_inodes(path: Path) -> bool:
    """Whether the file system has free blocks but no free inodes. Some file systems (btrfs) do not count inodes."""
    there = next((parent for parent in path.parents if parent.exists()), path)
    try:
        found = os.statvfs(there)
    except OSError:
        return False
    return found.f_files > 0 and found.f_favail == 0 and found.f_bavail > 0


@contextmanager
def _own_work(path: Path) -> Iterator[None]:
    """Turn the errors of this module's own calls into a `UserError`, also those of a folder that somebody removed."""
    try:
        with disk_errors(path):
            yield
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        raise UserError(_removal(path)) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): remove the obstacle or choose another output folder."
        ) from error


def _removal(path: Path) -> str:
    return (
        f"{path.parent} was removed or changed while {path.name} was written: start again, and make sure that nothing else"
        " modifies that folder."
    )


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises `UserError` if that is impossible, e.g. because a file is in the way."""
    try:
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
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

    Raises `UserError` if the file or its folder cannot be written.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    make_folder(path.parent)
    with _own_work(path):
        sweep(path.parent, path.name)
        temporary, lock = _claim_new(path, _open_new_file)
        try:
            with disk_errors(path, lambda: len(content)):
                view = memoryview(content)
                while view:
                    view = view[os.write(lock, view) :]
                os.fsync(lock)
            os.rename(temporary, path)
            sync_folder(path.parent)
        finally:
            os.close(lock)
            _discard(temporary)


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `path` if the block succeeds and is removed otherwise.

    Raises `FileExistsError` if `path` exists (or another writer was faster), unless `replace`: then the
    new folder replaces the old one; after a kill between the two renames, the next writer restores the old one. Raises
    `UserError` if `path` cannot be written, is a file or is a symbolic link.
    """
    make_folder(path.parent)
    with _own_work(path):
        sweep(path.parent, path.name)
        refuse_obstacle(path)
        if path.exists() and not replace:
            raise FileExistsError(errno.EEXIST, "already there", str(path))
        temporary, lock = _claim_new(path, _open_new_folder)
    try:
        with disk_errors(path, lambda: _size(temporary) + 1):
            yield temporary
        with _own_work(path):
            _sync_tree(temporary)
            refuse_obstacle(path)
            _put_in_place(temporary, path, replace)
    except FileNotFoundError as error:
        if temporary.exists():
            raise
        raise UserError(_removal(path)) from error
    finally:
        _discard(temporary)  # already renamed if the block succeeded
        os.close(lock)


def refuse_obstacle(path: Path) -> None:
    """Raise `UserError` if a folder cannot be replaced as a whole, since it is a symbolic link or a file."""
    try:
        mode = path.lstat().st_mode  # once, since other writers move it
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        raise UserError(
            f"{path} is a symbolic link, but this folder is replaced as a whole: remove the link, or let the folder above it be"
            " the link."
        )
    if not stat.S_ISDIR(mode):
        raise UserError(f"{path} is not a folder, but a folder is to be written there: remove it.")


def remove_folder(path: Path) -> None:
    """Remove a folder atomically: rename it, then delete it. Does nothing if it does not exist."""
    with _own_work(path), suppress(FileNotFoundError):
        refuse_obstacle(path)
        aside = _sibling(path, "tmp")
        os.rename(path, aside)
        shutil.rmtree(aside)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove the leftovers of dead writers of `name` (None: of any name) in `folder`, and restore folders that they were
    replacing. What cannot be removed is left.
    """
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for entry in entries:
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None or name not in (None, match["name"]):
            continue
        with suppress(OSError), _dead(entry) as dead:
            target = entry.with_name(match["name"])
            if dead and match["kind"] == "old" and not os.path.lexists(target):
                os.rename(entry, target)
            elif dead:
                _discard(entry)


def _discard(path: Path) -> None:
    """Delete a file or a folder as far as possible."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def _dead(path: Path) -> Iterator[bool]:
    """Yield whether the writer of a temporary is dead; if so, the temporary is locked by this process inside the block.

    Raises `OSError` if `path` cannot be opened, as a symbolic link, which no writer makes.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
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
    """Create and lock a temporary next to `path`. If a sweep removes it before it is locked, tries again with another name.

    Raises `FileNotFoundError` when every try fails, which means that the folder around it was deleted.
    """
    for _ in range(_TRIES):
        temporary = _sibling(path, "tmp")
        try:
            handle = open_new(temporary)
        except FileNotFoundError:
            continue
        _lock(handle, wait=True)
        if _is_open_at(handle, temporary):
            return temporary, handle
        os.close(handle)
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path.parent))


def _put_in_place(temporary: Path, path: Path, replace: bool) -> None:
    for _ in range(_TRIES):
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
    raise UserError(f"{path} is replaced by other processes all the time: end them, then start again.")


@contextmanager
def _set_aside(path: Path, replace: bool) -> Iterator[None]:
    """Lock an old folder and move it aside; afterwards delete it, or restore it if nothing has replaced it."""
    handle = _opened(path) if replace else None
    if handle is None:
        yield
        return
    aside = _sibling(path, "old")
    try:
        _lock(handle, wait=True)
        with suppress(FileNotFoundError):  # another writer moved it
            os.rename(path, aside)
        try:
            yield
        finally:
            if path.exists() or not _restored(aside, path):
                shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(handle)


def _opened(path: Path) -> int | None:
    """Return a handle of a folder, or None if there is none."""
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


def _restored(aside: Path, path: Path) -> bool:
    """Move an old folder back, if it was moved. False if another writer has put its own in place meanwhile."""
    try:
        os.rename(aside, path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
        return False
    return True


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
