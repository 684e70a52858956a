"""The run log: metrics as JSON lines and in trackers, and progress output (a live bar on a terminal, otherwise a line every eight
seconds)."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from tasks.errors import UserError
from tasks.processes.pace import duration, per_step
from tasks.storage.disk import atomic_write, disk_errors
from tasks.storage.metrics import METRICS, read_metrics
from training.console import log_line, phase
from training.reporters import Reporter

__all__ = ["RunLog", "RunTimer"]

LOG_EVERY_S = 8.0
RECENT_STEPS = 20
"""Steps whose durations the estimate of the remaining time depends on."""
STARTS = "starts"
STEP_PREFIX = "step "
"""The start of every progress line, by which other programs find the current step in the output."""


class RunTimer:
    """The duration of every start of a run, stored in one file per start in `starts/`.

    The clock starts when the object is created. A start that was killed counts up to its last `save`.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder / STARTS
        self._path = (
            self._folder / f"{max((int(path.stem) for path in self._starts()), default=0) + 1:04d}.json"
        )
        self._clock, self._began = clock, clock()

    def save(self) -> None:
        """Store the seconds elapsed so far."""
        atomic_write(self._path, json.dumps({"seconds": self._clock() - self._began}))

    def total(self) -> tuple[int, float]:
        """Return the number of starts (this one included) and their total seconds so far."""
        self.save()
        starts = self._starts()
        return len(starts), sum(_seconds(path) for path in starts)

    def _starts(self) -> list[Path]:
        """Return the files of the starts; copies and other files in the folder are ignored."""
        return [path for path in self._folder.glob("*.json") if re.fullmatch(r"\d{4,}\.json", path.name)]


def _seconds(path: Path) -> float:
    try:
        return float(json.loads(path.read_bytes())["seconds"])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} is damaged: delete it, and the time of that start is not counted") from error


def terminal() -> Console | None:
    """Return a console if standard output is a terminal that can show a progress bar, else None."""
    console = Console()
    return console if sys.stdout.isatty() and console.is_interactive else None


class Bar:
    """Progress of the run in two live lines of a terminal.

    While the bar is active, printed lines (`log_line`) appear above it. The cursor is restored even if the block raises.
    """

    def __init__(self, console: Console, *, step: int, steps: int) -> None:
        self._bar = Progress(
            TextColumn(f"train: {STEP_PREFIX}{{task.completed}} of {{task.total}}"),
            BarColumn(None),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=steps, completed=step, left="")
        self._live = Live(self._bar, console=console, refresh_per_second=1)

    def __enter__(self) -> Bar:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, step: int, text: str, left: str) -> None:
        self._bar.update(self._task, completed=step, left=left)
        self._live.update(Group(self._bar, Text(text)), refresh=True)


class RunLog:
    """The run log, one row per step. `step` is the step that the run continues from: later rows of an interrupted start are
    removed, because those steps are repeated. `reporters` are closed with the log."""

    def __init__(
        self,
        folder: Path,
        *,
        step: int,
        steps: int,
        reporters: Sequence[Reporter] = (),
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        kept = [row for row in read_metrics(folder) if row["step"] <= step]
        atomic_write(folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept))
        self._path = folder / METRICS
        self._file = self._path.open("a", encoding="utf-8")
        self._reporters = reporters
        self._steps = steps
        self._activity: str | None = None
        self._clock, self._logged = clock, -LOG_EVERY_S
        self._marks = deque([(step, clock())], maxlen=RECENT_STEPS + 1)
        self._stack = ExitStack()
        console = console or terminal()
        self._bar = None if console is None else Bar(console, step=step, steps=steps)

    def __enter__(self) -> RunLog:
        self._stack.enter_context(self._bar or phase(lambda _seconds: self._current()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._file.close()
        for reporter in self._reporters:
            reporter.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Store the metrics of a step and show progress, on the bar or as a line every eight seconds and after the last step."""
        line = json.dumps(dict(row), allow_nan=False) + "\n"
        with disk_errors(self._path, lambda: len(line)):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            values = {name: value for name, value in row.items() if name != "step"}
            for reporter in self._reporters:
                reporter.write(int(row["step"]), values)
        self._mark(int(row["step"]))
        if self._bar is not None:
            self._bar.show(int(row["step"]), self._summary(row), self._left(row))
            return
        now = self._clock()
        if now - self._logged >= LOG_EVERY_S or row["step"] == self._steps:
            self._logged = now
            log_line(self.line(row))

    def line(self, row: Mapping[str, Any]) -> str:
        """Return 'step 12 of 60, loss 0.8123, weight 0.71, 96 tokens per response, 3.4 s per step (rollout 55%, ...), 163 s
        left'."""
        return f"{STEP_PREFIX}{int(row['step'])} of {self._steps}, {self._summary(row)}, {self._left(row)}"

    @contextmanager
    def activity(self, what: str) -> Iterator[None]:
        """Describe the block by `what` in the lines that are printed while nothing else is."""
        self._activity = what
        try:
            yield
        finally:
            self._activity = None

    def _current(self) -> str:
        step, since = self._marks[-1]
        return f"{self._activity or f'working on step {step + 1}'}, {self._clock() - since:.0f} s"

    def _summary(self, row: Mapping[str, Any]) -> str:
        shares = ", ".join(
            f"{name.removeprefix('share_')} {row[name]:.0%}" for name in row if name.startswith("share_")
        )
        return (
            f"loss {row['loss']:.4f}, weight {row['weight_mean']:.2f}, "
            f"{row['response_tokens_mean']:.0f} tokens per response, {self._pace(row):.1f} s per step ({shares})"
        )

    def _left(self, row: Mapping[str, Any]) -> str:
        return f"{duration(self._pace(row) * (self._steps - row['step']))} left"

    def _pace(self, row: Mapping[str, Any]) -> float:
        """Return the median of the seconds per step of the last steps."""
        self._mark(int(row["step"]))
        return per_step(self._marks)

    def _mark(self, step: int) -> None:
        if step > self._marks[-1][0]:
            self._marks.append((step, self._clock()))
