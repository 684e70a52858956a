"""Adaptive limit on the number of requests in flight, adjusted to the capacity of the server as in TCP congestion control.

The limit starts at an eighth of the cap (at least 8) and doubles every round until the first congestion, then grows by
one per round of successes and halves on congestion, at most once per round trip (additive increase, multiplicative decrease;
Chiu and Jain 1989).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

FIRST_CONCURRENCY: Final = 8
FIRST_SHARE: Final = 8
"""The first limit is the cap divided by this, but at least `FIRST_CONCURRENCY`."""


class Throttle:
    """The adaptive limit on requests in flight, at most `cap`."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.limit = float(min(cap, max(FIRST_CONCURRENCY, cap // FIRST_SHARE)))
        self.active = 0
        self._slow_start = True
        self._cut_at = -1.0
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a free slot and take it."""
        while self.active >= int(self.limit):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._wake()  # pass on a wake-up that arrived at the same moment
                raise
        self.active += 1

    def leave(self) -> None:
        """Release the slot."""
        self.active -= 1
        self._wake()

    def succeeded(self) -> None:
        """Record a success: a full round of them raises the limit by one (doubles it before the first congestion)."""
        self.limit = min(float(self.cap), self.limit + (1.0 if self._slow_start else 1.0 / self.limit))
        self._wake()

    def congested(self, sent_at: float) -> None:
        """Record congestion of an attempt sent at `sent_at` (monotonic seconds): halve the limit unless it was halved since."""
        if sent_at > self._cut_at:
            self._slow_start = False
            self.limit = max(1.0, self.limit / 2)
            self._cut_at = time.monotonic()

    def _wake(self) -> None:
        free = int(self.limit) - self.active
        while self._waiters and free > 0:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1
