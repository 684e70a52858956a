"""The remaining time is estimated from the median of recent rates, so that it settles."""

from __future__ import annotations

import random
from collections import deque

import pytest

from tasks.processes.pace import Pace, duration, per_step


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(pace: Pace, clock: Clock, seconds: int, rate: float, count: float) -> float:
    """Work for so many seconds at a rate, with an update every second."""
    for _ in range(seconds):
        clock.now += 1.0
        count += rate
        pace.note(int(count))
    return count


def test_there_is_no_rate_until_there_are_three_spans() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.note(0)
    assert pace.rate() is None
    run(pace, clock, 10, 4.0, 0)
    assert pace.rate() is None
    run(pace, clock, 10, 4.0, 40)
    assert pace.rate() == pytest.approx(4.0)


def test_a_steady_rate_is_exact_and_no_growth_gives_none() -> None:
    clock = Clock()
    pace = Pace(clock)
    count = run(pace, clock, 60, 2.0, 0)
    assert pace.rate() == pytest.approx(2.0)
    run(pace, clock, 300, 0.0, count)
    assert pace.rate() is None


def test_a_slow_start_is_forgotten_within_two_minutes() -> None:
    """6,000 rows of which the first 20 took ten minutes: the mean since the start is 25 times too low."""
    clock = Clock()
    pace = Pace(clock)
    count = run(pace, clock, 600, 1 / 30, 0)
    count = run(pace, clock, 120, 10.0, count)
    assert count / 720 < 2.0  # the mean since the start
    rate = pace.rate()
    assert rate == pytest.approx(10.0, rel=0.1)


def test_bursts_do_not_shake_the_estimate() -> None:
    """Rows come 100 at a time, every 20 s give or take 5: the rate stays near 5 per second."""
    draw, clock = random.Random(0), Clock()
    pace, count, rates = Pace(clock), 0, []
    due = clock.now + 20
    for _ in range(600):
        clock.now += 1.0
        if clock.now >= due:
            count, due = count + 100, due + draw.uniform(15, 25)
        pace.note(count)
        rates.append(pace.rate())
    settled = [rate for rate in rates[120:] if rate is not None]
    assert len(settled) == 480 and min(settled) > 5 / 1.5 and max(settled) < 5 * 1.5


def test_the_seconds_per_step_are_the_median_of_recent_steps() -> None:
    marks = deque([(10, 100.0), (11, 160.0), (12, 162.0), (14, 166.0)])
    assert per_step(marks) == 2.0  # 60, 2 and (4 over two steps) 2
    assert per_step(deque([(10, 100.0)])) == 0.0


def test_durations_are_short() -> None:
    assert [duration(s) for s in (7.4, 99, 100, 5999, 39_545)] == [
        "7 s",
        "99 s",
        "2 min",
        "100 min",
        "11.0 h",
    ]
