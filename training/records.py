"""What a run writes while it goes: metrics as JSON lines and TensorBoard events, and a line that a person can follow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.io.disk import atomic_write

__all__ = ["METRICS", "Records", "read_metrics", "say"]

METRICS = "metrics.jsonl"
SAY_EVERY_S = 10.0
MARK = "step "
"""How a progress line starts: whoever reads the output of a run finds the step in it."""


def say(text: str) -> None:
    """One line in plain words."""
    print(f"train: {text}", flush=True)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows written so far, by step; a torn last line is left out."""
    path = folder / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Records:
    """One row a step. Opened at the step that the run continues from: later rows of a killed run are dropped, since those
    steps are done again."""

    def __init__(
        self, folder: Path, *, step: int, steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        kept = [row for row in read_metrics(folder) if row["step"] <= step]
        atomic_write(folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = (folder / METRICS).open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._first, self._steps = step, steps
        self._clock, self._started, self._said = clock, clock(), -SAY_EVERY_S

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._events.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Store a step's row and, every ten seconds and at the end, say where the run is."""
        self._file.write(json.dumps(dict(row), allow_nan=False) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name != "step":
                self._events.add_scalar(name, value, int(row["step"]))
        now = self._clock()
        if now - self._said >= SAY_EVERY_S or row["step"] == self._steps:
            self._said = now
            say(self.line(row))

    def line(self, row: Mapping[str, Any]) -> str:
        """'step 12 of 60, loss 0.8123, weight 0.71, 96 tokens a response, 3.4 s a step (rollout 55%, ...), 163 s left'."""
        done = int(row["step"]) - self._first
        pace = (self._clock() - self._started) / max(done, 1)
        shares = ", ".join(
            f"{name.removeprefix('share_')} {row[name]:.0%}" for name in row if name.startswith("share_")
        )
        return (
            f"{MARK}{int(row['step'])} of {self._steps}, loss {row['loss']:.4f}, weight {row['weight_mean']:.2f}, "
            f"{row['response_tokens_mean']:.0f} tokens a response, {pace:.1f} s a step ({shares}), "
            f"{pace * (self._steps - row['step']):.0f} s left"
        )
