"""What a run writes on the disk: whether its output folder takes files, and whether all of it will fit."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import UserError
from training.config import RunConfig, project_path
from training.shapes import Shape, count_lora, count_parameters

RESULT = "result.json"  # the last file of a finished run, which writes nothing more (`training.results`)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """Bytes on the disk of `folder`. `needed`: all that the run ever holds at once; `held`: what it has there already;
    `free`: of the disk."""

    folder: Path
    needed: int
    held: int
    free: int


def stored_bytes(run: RunConfig, shape: Shape) -> int:
    """Most bytes that a run holds at once: its checkpoints, one more than are kept while it is written, and the exported student.

    A checkpoint has all parameters in the training type, and for those that are trained a float32 master copy and the two
    moments of Adam.
    """
    lora, number = run.engine.lora, 2 if run.engine.dtype == "bfloat16" else 4
    model = count_parameters(shape)
    adapters = 0 if lora is None else count_lora(shape, lora)
    checkpoint = (model + adapters) * number + (adapters or model) * 12
    return (run.checkpoints.keep + 1) * checkpoint + model * number


def probe_output(run: RunConfig) -> Path:
    """Whether the output folder can be made and written, tried beside it with a folder that goes again; gives the folder, or the
    nearest above it that is there. `UserError` names the setting."""
    folder = project_path(run.output)
    try:
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        with tempfile.TemporaryDirectory(dir=there, prefix=".probe-") as name:
            tried = Path(name) / folder.relative_to(there)
            tried.mkdir(parents=True, exist_ok=True)
            (tried / "file").write_bytes(b"x")
    except (OSError, ValueError) as error:  # ValueError: a path that no system takes
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"output: {folder} cannot be made or written ({reason}): choose another folder, or make this one writable"
        ) from error
    return there


def disk_plan(run: RunConfig, shape: Shape, output: Path, own: Path | None) -> DiskPlan:
    """Bytes needed, and free where `output`, a folder that is there, lies. `own` is the run's folder, where it is known: what it
    holds of an earlier start is replaced, and a finished run needs nothing."""
    finished = own is not None and (own / RESULT).is_file()
    return DiskPlan(
        folder=output,
        needed=0 if finished else stored_bytes(run, shape),
        held=0 if own is None else _size(own),
        free=shutil.disk_usage(output).free,
    )


def disk_problems(run: RunConfig, plan: DiskPlan) -> list[str]:
    """A sentence when the run cannot fit."""
    if plan.needed <= plan.held + plan.free:
        return []
    return [
        f"output: checkpoints and the trained student need {_gb(plan.needed)} and the disk of {plan.folder} has"
        f" {_gb(plan.held + plan.free)} for them: free some space, choose a folder on another disk, or lower checkpoints.keep"
        f" ({run.checkpoints.keep})"
    ]


def disk_line(plan: DiskPlan) -> str:
    """The plan in a few words."""
    return f"at most {_gb(plan.needed)} of checkpoints and the trained student, {_gb(plan.held + plan.free)} free for them"


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a run that goes on meanwhile removes old checkpoints
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _gb(amount: int) -> str:
    return f"{amount / 1e9:,.1f} GB"
