"""Checkpoints of a run.

Each checkpoint is a folder `step-<n>` that is written atomically; only the newest few are kept, and the best. Its record lists
all files with their sizes and checksums, so that a damaged checkpoint is detected and an earlier one is used instead. Records of
format 1 have sizes only.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tasks.errors import UserError
from tasks.storage.artifacts import versions
from tasks.storage.checksums import RECORD, Damaged, LaterFormat, checksum, sealed, unsealed, written_by
from tasks.storage.disk import remove_folder, whole_folder

_NAME = re.compile(r"step-(\d{8})")
_READERS = 8
"""Files that are read at a time."""


def step_folder(root: Path, step: int) -> Path:
    """Return the folder of the checkpoint taken after `step` steps."""
    return root / f"step-{step:08d}"


def steps(root: Path) -> list[int]:
    """Return the steps of the complete checkpoints under `root`, ascending. A folder without a record is ignored."""
    if not root.is_dir():
        return []
    found = ((_NAME.fullmatch(entry.name), entry) for entry in root.iterdir())
    return sorted(int(match[1]) for match, entry in found if match and (entry / RECORD).is_file())


def latest(root: Path, on_damage: Callable[[str], None] | None = None) -> Path | None:
    """Return the newest undamaged checkpoint, or None if there are no checkpoints.

    `on_damage` is called with a message for each newer checkpoint that is damaged. Raises `UserError` if all are damaged.
    """
    found = [step_folder(root, step) for step in reversed(steps(root))]
    for folder in found:
        wrong = damage(folder)
        if wrong is None:
            return folder
        if on_damage is not None:
            on_damage(f"checkpoint {folder.name} is damaged ({wrong}) and is skipped")
    if found:
        raise UserError(
            f"every checkpoint in {root} is damaged, the newest being {found[0].name} ({damage(found[0])}): restore the files,"
            " or delete the folder to start from the beginning"
        )
    return None


def damage(folder: Path) -> str | None:
    """Describe the first file that is missing or differs from the record, or a damaged record; None if the checkpoint is whole.

    All files are read. Raises `UserError` for a checkpoint of another version that this one cannot read.
    """
    try:
        files = _record(folder)["files"]
    except Damaged as error:
        return f"{RECORD} {error}"
    for name, listed in files.items():
        size = listed["bytes"] if isinstance(listed, Mapping) else listed  # a number in format 1
        try:
            held = (folder / name).stat().st_size
        except OSError as error:
            return f"{name}: {error.strerror}"
        if held != size:
            return f"{name} has {held:,} bytes instead of {size:,}"
    checked = [name for name, listed in files.items() if isinstance(listed, Mapping)]
    try:
        found = _checksums(folder, checked)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    differing = next((name for name in checked if found[name] != files[name]["xxh3"]), None)
    return None if differing is None else f"{differing} differs from its checksum"


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the size in bytes and the checksum of every file, by path relative to the folder."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    sums = _checksums(folder, names)
    return {name: {"bytes": (folder / name).stat().st_size, "xxh3": sums[name]} for name in names}


def _checksums(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the checksums of these files, several at a time: hashing does not hold Python's lock."""
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(names, pool.map(lambda name: checksum(folder / name), names), strict=True))


@contextmanager
def writing(
    root: Path, step: int, record: Mapping[str, Any], *, keep: int, best: int | None = None
) -> Iterator[Path]:
    """Yield a folder to write the checkpoint of step `step` into. If the block raises, the folder is removed.

    `record` (JSON data) is written last; `read_record` returns it. A checkpoint of the same step is replaced. Afterwards all but
    the newest `keep` checkpoints up to `step` and that of step `best` are deleted. Later ones are damaged, since the run
    continued from an earlier one. Raises `UserError` if the disk is full, in this process or in a worker.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}: at least 1 checkpoint must be kept")
    target = step_folder(root, step)
    with disk_full_as_user_error(f"the checkpoint {target}"), whole_folder(target, replace=True) as folder:
        yield folder
        written = {"step": step, **record, "versions": versions(), "files": _files(folder)}
        (folder / RECORD).write_text(json.dumps(sealed(written), indent=1), encoding="utf-8")
    there = steps(root)
    kept = {*[one for one in there if one <= step][-keep:], best}
    for old in there:
        if old not in kept:
            remove_folder(step_folder(root, old))


@contextmanager
def disk_full_as_user_error(what: str) -> Iterator[None]:
    """Convert the `DiskFull` of a worker that was writing its part of `what` into a `UserError`."""
    try:
        yield
    except DiskFull as error:
        raise UserError(
            f"The disk is full: {what} could not be written; free some space and start again (completed checkpoints are kept)."
        ) from error


class DiskFull(Exception):
    """The disk has no space left for a part of a checkpoint."""


@contextmanager
def full_disk_named() -> Iterator[None]:
    """Convert every error by which torch, safetensors or the system reports a full disk into `DiskFull`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(str(error)) from error
    except (RuntimeError, SafetensorError) as error:  # torch.save and safetensors set no errno
        if not any(sign in str(error) for sign in _TORCH_FULL):
            raise
        raise DiskFull(str(error)) from error


_TORCH_FULL = ("PytorchStreamWriter failed", "unexpected pos", "No space left", "Disk quota exceeded")


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of a checkpoint. Raises `UserError` if the folder is not a complete checkpoint, or one of another version
    that this one cannot read."""
    try:
        return _record(folder)
    except Damaged as error:
        raise UserError(
            f"{folder} is not a complete checkpoint ({RECORD} {error}): resume from another step"
        ) from error


def _record(folder: Path) -> dict[str, Any]:
    path, remedy = folder / RECORD, "delete the run's folder to start from the beginning, or use that version"
    try:
        record = unsealed(path.read_bytes())
    except LaterFormat as error:
        raise UserError(f"{path} {error}: {remedy}") from error
    except OSError as error:
        raise Damaged(f"cannot be read ({error.strerror})") from error
    if "files" not in record:
        raise UserError(f"{path} {written_by(record)}, which did not list the files: {remedy}")
    if not (isinstance(record.get("step"), int) and _is_listing(record["files"])):
        raise Damaged("does not list the step and the files")
    return record


def _is_listing(files: object) -> bool:
    return isinstance(files, Mapping) and all(
        isinstance(one, int) or (isinstance(one, Mapping) and {"bytes", "xxh3"} <= one.keys())
        for one in files.values()
    )
