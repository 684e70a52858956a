"""What a run spent its time on: `logs/timeline.jsonl` in the output folder, one JSON object per phase, in the order of their end.

An object has the kind of the phase (stage, start, start ahead, wait), its name, when it began (seconds since 1970), and its wall
and CPU seconds. CPU seconds are those of this process and all its descendants. `speed/build_breakdown.py` prints them.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Timeline:
    """Appends phases to a file."""

    path: Path

    @contextmanager
    def phase(self, kind: str, name: str) -> Iterator[None]:
        """Record the block, also if it raises."""
        began, clock, cpu = time.time(), time.monotonic(), cpu_seconds()
        try:
            yield
        finally:
            seconds = time.monotonic() - clock
            line = {
                "kind": kind, "name": name, "began": round(began, 3), "seconds": round(seconds, 3),
                "cpu": round(max(0.0, cpu_seconds() - cpu), 3),
            }  # fmt: skip
            with contextlib.suppress(OSError):  # no result depends on it
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its descendants, including those that have ended and were waited for."""
    this = psutil.Process()
    return sum(_own_seconds(process) for process in (this, *this.children(recursive=True)))


def _own_seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        times = process.cpu_times()
        return times.user + times.system + times.children_user + times.children_system
    return 0.0
