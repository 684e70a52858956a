"""Adaptive limit on the number of requests in flight, adjusted to the capacity of the server as in TCP congestion control.

The limit starts at an eighth of the cap (at least 8) and doubles every round until the first congestion, then grows by
one per round of successes and halves on congestion, at most once per round trip (additive increase, multiplicative decrease;
Chiu and Jain 1989).
"""

from __future__ import annotations

import time
from typing import Final

FIRST_CONCURRENCY: Final = 8
FIRST_SHARE: Final = 8
"""The first limit is the cap divided by this, but at least `FIRST_CONCURRENCY`."""


class Throttle:
    """The adaptive limit on requests in flight at one server, at most `cap`, and how many there are (`active`)."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.limit = float(min(cap, max(FIRST_CONCURRENCY, cap // FIRST_SHARE)))
        self.active = 0
        self._slow_start = True
        self._cut_at = -1.0

    @property
    def is_free(self) -> bool:
        """Whether another request may be sent."""
        return self.active < int(self.limit)

    def succeeded(self) -> None:
        """Record a success: a full round of them raises the limit by one (doubles it before the first congestion)."""
        self.limit = min(float(self.cap), self.limit + (1.0 if self._slow_start else 1.0 / self.limit))

    def congested(self, sent_at: float) -> None:
        """Record congestion of an attempt sent at `sent_at` (monotonic seconds): halve the limit unless it was halved since."""
        if sent_at > self._cut_at:
            self._slow_start = False
            self.limit = max(1.0, self.limit / 2)
            self._cut_at = time.monotonic()
