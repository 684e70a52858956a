"""Checkpoints of a run: folders `step-<n>` that appear whole or not at all, of which the last few are kept. Each says which files
it is made of, so that one that was damaged afterwards is noticed and the one before it taken."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

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


def latest(root: Path, on_damage: Callable[[str], None] | None = None) -> Path | None:
    """The newest checkpoint that is as it was written, or None when there is none at all. `on_damage` is told, in a sentence,
    of each newer one that is not. `UserError` when all of them are damaged."""
    found = [step_folder(root, step) for step in reversed(steps(root))]
    for folder in found:
        wrong = damage(folder)
        if wrong is None:
            return folder
        if on_damage is not None:
            on_damage(f"checkpoint {folder.name} is damaged ({wrong}) and left out")
    if found:
        raise UserError(
            f"every checkpoint in {root} is damaged, {found[0].name} first of all ({damage(found[0])}): put the files back, or"
            " delete the folder to start from the beginning"
        )
    return None


def damage(folder: Path) -> str | None:
    """What differs in a checkpoint's files from when it was written, or None."""
    for name, size in read_record(folder)["files"].items():
        try:
            held = (folder / name).stat().st_size
        except OSError as error:
            return f"{name}: {error.strerror}"
        if held != size:
            return f"{name} has {held:,} bytes of {size:,}"
    return None


def _files(folder: Path) -> dict[str, int]:
    """Sizes in bytes of all files, by their paths in the folder."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def writing(root: Path, step: int, record: Mapping[str, Any], *, keep: int) -> Iterator[Path]:
    """Fill the yielded folder with step `step`; when the block ends well it is a checkpoint, otherwise nothing stays.

    `record` (JSON data) is written last and read back by `read_record`. A checkpoint of the same step is replaced. Then
    all but the newest `keep` go. Raises `UserError` when the disk is full, also when a worker process met that.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}: at least 1 checkpoint must stay")
    target = step_folder(root, step)
    with full_disk_told(f"the checkpoint {target}"), whole_folder(target, replace=True) as folder:
        yield folder
        written = {"step": step, **record, "files": _files(folder)}
        (folder / RECORD).write_text(json.dumps(written, indent=1), encoding="utf-8")
    for old in steps(root)[:-keep]:
        remove_folder(step_folder(root, old))


@contextmanager
def full_disk_told(what: str) -> Iterator[None]:
    """`DiskFull` of a process that wrote its part of `what`, as the sentence for the person."""
    try:
        yield
    except DiskFull as error:
        raise UserError(
            f"The disk is full: {what} was given up; free some space, then start again (the checkpoints that were finished are"
            " kept)."
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
    except (RuntimeError, SafetensorError) as error:  # torch.save and safetensors know no errno
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
