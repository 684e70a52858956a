"""`python -m training.experiments.memory_views PROFILE ALGORITHM`: memory by component, placement and ZeRO stage, from the plan.

For each placement (every worker on GPUs of its own, or all workers on every GPU) and each ZeRO stage: the GB of every component
in the phase in which it is largest, and the peak of each GPU, in which only components of one phase count. The models'
config.json files are read; nothing is loaded or measured. Written into `--output`: `memory.md` and `memory.csv`.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.runtime.training_run import run_config
from tasks.storage.disk import atomic_write
from training.config import project_path
from training.experiments.cell import Cell
from training.plan import resolve
from training.preflight.memory import PHASES, Device, memory_plan
from training.preflight.shapes import read_dimensions

__all__ = [
    "PLACEMENTS",
    "STAGES",
    "components",
    "main",
    "memory_csv",
    "memory_markdown",
    "planned_components",
]

STAGES = (0, 1, 2, 3)
PLACEMENTS: Mapping[str, Mapping[str, Any]] = {
    "separate": {"kind": "split", "students": 2, "engines": 1},
    "colocated": {"kind": "colocated", "students": 4, "engines": 4},
}
"""The placements of the table, both of four GPUs; a single student rank would have nothing to divide by ZeRO."""
PEAK = "peak of the GPU"

Component = tuple[str, str, str]
"""GPU, worker and what; the peak of a GPU has no worker."""


def planned_components(profile: str, algorithm: str) -> dict[str, dict[int, dict[Component, int]]]:
    """Return the bytes of each component by placement and ZeRO stage. Raises `UserError` if a config.json is not there."""
    return {
        name: {stage: _planned(profile, algorithm, placement, stage) for stage in STAGES}
        for name, placement in PLACEMENTS.items()
    }


def _planned(profile: str, algorithm: str, placement: Mapping[str, Any], stage: int) -> dict[Component, int]:
    changes = {"placement": dict(placement), "trainer.zero_stage": stage}
    cell = Cell(profile=profile, algorithm=algorithm, changes=changes)
    plan = resolve(run_config(cell.settings(), Path("dataset"), Path("folder")))
    student = read_dimensions(project_path(plan.run.student.model))
    teachers = [read_dimensions(project_path(one.model)) for one in plan.teachers]
    return components(memory_plan(plan, student, *teachers).devices)


def components(devices: Sequence[Device]) -> dict[Component, int]:
    """Return the most bytes of each component over the phases, then the peak, of every kind of GPU; GPUs with the same content
    are one kind, named after the first."""
    found: dict[Component, int] = {}
    kinds = {device.parts: device for device in reversed(devices)}
    for device in reversed(kinds.values()):
        for owner, what in dict.fromkeys((part.owner, part.what) for part in device.parts):
            parts = [part for part in device.parts if (part.owner, part.what) == (owner, what)]
            found[device.name, owner, what] = max(
                sum(part.bytes for part in parts if phase in part.phases) for phase in PHASES
            )
        found[device.name, "", PEAK] = device.peak
    return found


def memory_markdown(found: Mapping[str, Mapping[int, Mapping[Component, int]]]) -> str:
    """Return a table for each placement, in GB of 10^9 bytes, one column per ZeRO stage."""
    lines: list[str] = []
    for name, stages in found.items():
        lines += [
            f"**{name}** (GB)",
            "",
            "| GPU | worker | what | " + " | ".join(f"ZeRO {stage}" for stage in stages) + " |",
            "|---|---|---|" + "---:|" * len(stages),
        ]
        keys = dict.fromkeys(key for stage in stages.values() for key in stage)
        for key in sorted(keys, key=lambda one: (one[0], one[2] == PEAK)):
            sizes = (f"{stage[key] / 1e9:,.2f}" if key in stage else "" for stage in stages.values())
            lines.append(f"| {' | '.join(key)} | {' | '.join(sizes)} |")
        lines.append("")
    return "\n".join(lines)


def memory_csv(found: Mapping[str, Mapping[int, Mapping[Component, int]]]) -> str:
    """Return the bytes, one line per placement, stage and component."""
    sink = io.StringIO()
    write = csv.writer(sink, lineterminator="\n").writerow
    write(["placement", "zero_stage", "gpu", "worker", "what", "bytes"])
    for name, stages in found.items():
        for stage, parts in stages.items():
            for key, size in parts.items():
                write([name, stage, *key, size])
    return sink.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a problem that the user can fix."""
    parser = argparse.ArgumentParser(
        prog="python -m training.experiments.memory_views", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("profile")
    parser.add_argument("algorithm", nargs="?", default="core")
    parser.add_argument("--output", type=Path, default=PROJECT_ROOT / "output" / "tables" / "memory")
    given = parser.parse_args(arguments)
    try:
        found = planned_components(given.profile, given.algorithm)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    given.output.mkdir(parents=True, exist_ok=True)
    atomic_write(given.output / "memory.md", memory_markdown(found))
    atomic_write(given.output / "memory.csv", memory_csv(found))
    sys.stdout.write(memory_markdown(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
