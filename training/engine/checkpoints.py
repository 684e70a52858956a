"""Checkpoints of a run: folders `step-<n>` that appear whole or not at all, of which the last few are kept."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.core.errors import UserError
from tasks.io.disk import remove_folder, whole_folder

RECORD = "record.json"
_NAME = re.compile(r"step-(\d{8})")


def step_folder(root: Path, step: int) -> Path:
    """Where the checkpoint taken after `step` steps lies."""
    return root / f"step-{step:08d}"


def steps(root: Path) -> list[int]:
    """Steps of the whole checkpoints under `root`, ascending. A folder without its record does not count."""
    if not root.is_dir():
        return []
    found = ((_NAME.fullmatch(entry.name), entry) for entry in root.iterdir())
    return sorted(int(match[1]) for match, entry in found if match and (entry / RECORD).is_file())


def latest(root: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = steps(root)
    return step_folder(root, found[-1]) if found else None


@contextmanager
def writing(root: Path, step: int, record: Mapping[str, Any], *, keep: int) -> Iterator[Path]:
    """Fill the yielded folder with step `step`; when the block ends well it is a checkpoint, otherwise nothing stays.

    `record` (JSON data) is written last and read back by `read_record`. A checkpoint of the same step is replaced. Then
    all but the newest `keep` go. Raises `UserError` when the disk is full, also when a worker process met that.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}: at least 1 checkpoint must stay")
    target = step_folder(root, step)
    with _full_disk_of_a_worker(target), whole_folder(target, replace=True) as folder:
        yield folder
        (folder / RECORD).write_text(json.dumps({"step": step, **record}, indent=1), encoding="utf-8")
    for old in steps(root)[:-keep]:
        remove_folder(step_folder(root, old))


@contextmanager
def _full_disk_of_a_worker(target: Path) -> Iterator[None]:
    """`DiskFull` of a process that wrote its part of the checkpoint, as the sentence for the person."""
    try:
        yield
    except DiskFull as error:
        raise UserError(
            f"The disk is full: the checkpoint {target} was given up; free some space or choose another output folder, then"
            " start again (earlier checkpoints are kept)."
        ) from error


class DiskFull(Exception):
    """A part of a checkpoint did not fit on the disk."""


@contextmanager
def full_disk_named() -> Iterator[None]:
    """Turn every way in which torch and the system say "no space left" into `DiskFull`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(str(error)) from error
    except RuntimeError as error:  # torch.save and safetensors know no errno
        if not any(sign in str(error) for sign in _TORCH_FULL):
            raise
        raise DiskFull(str(error)) from error


_TORCH_FULL = ("PytorchStreamWriter failed", "unexpected pos", "No space left", "Disk quota exceeded")


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a checkpoint. Raises `UserError` when the folder is not a whole checkpoint."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{folder} is not a whole checkpoint ({RECORD} is missing or unreadable): resume from another step"
        ) from error
