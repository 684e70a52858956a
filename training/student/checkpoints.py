"""Checkpoints of a run.

Each checkpoint is a folder `step-<n>` that is written atomically; only the newest few are kept. Its record lists all files
with their sizes, so that a damaged checkpoint is detected and an earlier one is used instead.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tasks.errors import UserError
from tasks.storage.disk import remove_folder, whole_folder

RECORD = "record.json"
_NAME = re.compile(r"step-(\d{8})")


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
    """Describe the first file that is missing or whose size differs from the record, or return None."""
    for name, size in read_record(folder)["files"].items():
        try:
            held = (folder / name).stat().st_size
        except OSError as error:
            return f"{name}: {error.strerror}"
        if held != size:
            return f"{name} has {held:,} bytes instead of {size:,}"
    return None


def _files(folder: Path) -> dict[str, int]:
    """Return the sizes in bytes of all files, by path relative to the folder."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def writing(root: Path, step: int, record: Mapping[str, Any], *, keep: int) -> Iterator[Path]:
    """Yield a folder to write the checkpoint of step `step` into. If the block raises, the folder is removed.

    `record` (JSON data) is written last; `read_record` returns it. A checkpoint of the same step is replaced. Afterwards all but
    the newest `keep` checkpoints are deleted. Raises `UserError` if the disk is full, in this process or in a worker.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}: at least 1 checkpoint must be kept")
    target = step_folder(root, step)
    with disk_full_as_user_error(f"the checkpoint {target}"), whole_folder(target, replace=True) as folder:
        yield folder
        written = {"step": step, **record, "files": _files(folder)}
        (folder / RECORD).write_text(json.dumps(written, indent=1), encoding="utf-8")
    for old in steps(root)[:-keep]:
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
    """Return the record of a checkpoint. Raises `UserError` if the folder is not a complete checkpoint."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{folder} is not a complete checkpoint ({RECORD} is missing or unreadable): resume from another step"
        ) from error
