"""What a run spent its time on: `timeline.jsonl`, one JSON object per phase, in the order in which phases end.

An object has the kind of the phase (stage, start, start ahead, wait, training), its name, when it began (seconds since 1970), and
its wall and CPU seconds. CPU seconds are those of this process and its descendants. `speed/build_breakdown.py` prints them.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

FILE = "timeline.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A recorded phase. Phases may overlap, and CPU seconds of one are then also those of the other."""

    kind: str
    name: str
    began: float
    seconds: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """The phases of a run in the file `path`."""

    path: Path

    @contextmanager
    def phase(self, kind: str, name: str) -> Iterator[None]:
        """Record the block, also if it raises."""
        began, clock, cpu = time.time(), time.monotonic(), cpu_seconds()
        try:
            yield
        finally:
            seconds, spent = time.monotonic() - clock, max(0.0, cpu_seconds() - cpu)
            self.record(
                Phase(kind=kind, name=name, began=began, seconds=round(seconds, 3), cpu=round(spent, 3))
            )

    def record(self, phase: Phase) -> None:
        """Append a phase. An error of the disk is ignored: no result depends on this file."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(phase)) + "\n")

    def phases(self) -> list[Phase]:
        """Return all phases in the order of their beginning; none without a file. A line that a kill cut off is left out."""
        found = list[Phase]()
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            with contextlib.suppress(ValueError):
                found.append(Phase(**json.loads(line)))
        return sorted(found, key=lambda phase: phase.began)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its descendants, including those that have ended and were waited for."""
    this = psutil.Process()
    return sum(_own_seconds(process) for process in (this, *this.children(recursive=True)))


def _own_seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        times = process.cpu_times()
        return times.user + times.system + times.children_user + times.children_system
    return 0.0
