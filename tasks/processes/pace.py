"""Estimates of the remaining time that settle: the median of recent rates."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median

MARK_S = 5.0
"""Seconds between two marks."""
SPAN_S = 120.0
"""Age in seconds of the oldest mark."""
FEWEST = 3
"""Marks before there is a rate; the first rows of a stage are not typical."""


class Pace:
    """The rate at which a count grows: the median of the mean rates since each mark of the last two minutes.

    Means over spans of different lengths are stable when rows are finished in bursts; their median follows a change of speed
    within a minute, and a slow start is forgotten after two.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque()
        self._count = 0

    def note(self, count: int) -> None:
        """Note that the count is `count` now."""
        now, self._count = self._clock(), count
        if not self._marks or now - self._marks[-1][0] >= MARK_S:
            self._marks.append((now, count))
            while now - self._marks[0][0] > SPAN_S and len(self._marks) > FEWEST:
                self._marks.popleft()

    def rate(self) -> float | None:
        """Return the rate per second, or None if it is not known yet or the count does not grow."""
        now = self._clock()
        rates = [
            (self._count - count) / (now - moment) for moment, count in self._marks if now - moment >= MARK_S
        ]
        return median(rates) or None if len(rates) >= FEWEST else None


def per_step(marks: deque[tuple[int, float]]) -> float:
    """Return the median of the seconds per step between successive marks (step, time); 0 with fewer than two marks."""
    pairs = zip(list(marks)[:-1], list(marks)[1:], strict=True)
    return median([(later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in pairs] or [0.0])


def duration(seconds: float) -> str:
    """Format a duration: '45 s', '12 min', '3.5 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
