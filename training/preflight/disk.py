"""Disk checks of a run: whether its output folder is writable and whether its files will fit."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import UserError
from training.config import RunConfig, project_path
from training.preflight.shapes import ModelDimensions, count_lora, count_parameters, gigabytes

RESULT = "result.json"  # the last file that a run writes; it marks the run as finished (`training.export`)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """Bytes on the disk of `folder`. `needed`: the most that the run stores at any time; `held`: what it stores there already;
    `free`: free space of the disk."""

    folder: Path
    needed: int
    held: int
    free: int


def stored_bytes(run: RunConfig, dims: ModelDimensions) -> int:
    """Return the most bytes that a run stores at any time: `checkpoints.keep` checkpoints, the best one with
    `evaluation.keep_best`, one more while it is being written, and the exported student with its adapter.

    A checkpoint holds all parameters in the training dtype and, for trained parameters, a float32 master copy and both Adam
    moments.
    """
    lora, number = run.trainer.lora, 2 if run.trainer.dtype == "bfloat16" else 4
    model = count_parameters(dims)
    adapters = 0 if lora is None else count_lora(dims, lora)
    checkpoint = (model + adapters) * number + (adapters or model) * 12
    best = int(run.evaluation is not None and run.evaluation.keep_best)
    return (run.checkpoints.keep + best + 1) * checkpoint + (model + adapters) * number


def probe_output(run: RunConfig) -> Path:
    """Check that the output folder can be created and written, with a temporary folder that is removed again.

    Returns the output folder, or its nearest existing parent. Raises `UserError` naming the setting.
    """
    folder = project_path(run.output)
    try:
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        with tempfile.TemporaryDirectory(dir=there, prefix=".probe-") as name:
            tried = Path(name) / folder.relative_to(there)
            tried.mkdir(parents=True, exist_ok=True)
            (tried / "file").write_bytes(b"x")
    except (OSError, ValueError) as error:  # ValueError: a path that no file system accepts
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"output: {folder} cannot be created or written ({reason}): choose another folder, or make this one writable"
        ) from error
    return there


def disk_plan(run: RunConfig, dims: ModelDimensions, output: Path, own: Path | None) -> DiskPlan:
    """Return the bytes that the run needs and the bytes that are free on the disk of `output`, an existing folder.

    `own` is the run's folder, if known: files of an earlier start in it are replaced, and a finished run needs no space.
    """
    finished = own is not None and (own / RESULT).is_file()
    return DiskPlan(
        folder=output,
        needed=0 if finished else stored_bytes(run, dims),
        held=0 if own is None else _size(own),
        free=shutil.disk_usage(output).free,
    )


def disk_problems(run: RunConfig, plan: DiskPlan) -> list[str]:
    """Return one problem if the run does not fit on the disk, else none."""
    if plan.needed <= plan.held + plan.free:
        return []
    return [
        f"output: checkpoints and the trained student need {gigabytes(plan.needed)}, but the disk of {plan.folder} has"
        f" {gigabytes(plan.held + plan.free)} available: free some space, choose a folder on another disk, or lower"
        f" checkpoints.keep ({run.checkpoints.keep})"
    ]


def disk_line(plan: DiskPlan) -> str:
    """Return the plan as one line of text."""
    needed, available = gigabytes(plan.needed), gigabytes(plan.held + plan.free)
    return f"at most {needed} for checkpoints and the trained student, {available} available"


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a run in progress may remove old checkpoints meanwhile
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
