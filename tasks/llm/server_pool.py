"""The servers of a role: a request goes to the one with the fewest outstanding requests, and around servers that fail.

Of several servers, one that fails some requests in a row is set aside, longer each time, and so is one that asks for a pause. It
is used again once its list of models is right. Where no server is left, all of them are used, so a single one is never set aside.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from tasks.errors import UserError
from tasks.llm.throttle import Throttle
from tasks.text import visible

FAILURES: Final = 3
"""A server is set aside after this many failures in a row."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
MAX_RETRY_AFTER_S: Final = 300.0


class ModelServer:
    """One server: its address, its throttle, how many requests it answered, and whether it `is_up`, that is not set aside."""

    def __init__(self, base_url: str, cap: int) -> None:
        self.base_url = base_url
        self.throttle = Throttle(cap)
        self.answered = 0
        self.is_up = True
        self.failures = 0  # in a row
        self.set_aside_at = -1.0
        self.until = 0.0
        self.pause_s = FIRST_PAUSE_S
        self.is_checked = False  # its list of models is being requested

    def next_pause(self) -> float:
        """Return for how many seconds it is set aside now; the next time it is twice as long."""
        seconds, self.pause_s = self.pause_s, min(LONGEST_PAUSE_S, 2 * self.pause_s)
        return seconds


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A request that waits for a slot. The result is None if no server is left for it."""

    future: asyncio.Future[ModelServer | None]
    last: ModelServer | None
    refused: Collection[ModelServer]


class ServerPool:
    """The servers of a role and the requests that wait for one of their slots. Not thread-safe."""

    def __init__(
        self, base_urls: Sequence[str], cap: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.servers = tuple(ModelServer(base_url, cap) for base_url in base_urls)
        self.cap = cap * len(self.servers)
        self._clock = clock
        self._waiters: deque[_Waiter] = deque()
        self._log = logging.getLogger(__name__)

    async def enter(
        self, last: ModelServer | None = None, refused: Collection[ModelServer] = ()
    ) -> ModelServer | None:
        """Wait for a free slot, take it and return its server: one that has not `refused` the request, and rather not the `last`
        one that it failed at. None if no server is left for the request."""
        usable = self._usable(refused)
        server = _choice(usable, last)
        if server is not None:
            server.throttle.active += 1
        if server is not None or not usable:
            return server
        waiter = _Waiter(asyncio.get_running_loop().create_future(), last, refused)
        self._waiters.append(waiter)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            given = waiter.future
            if not given.cancelled() and (server := given.result()) is not None:
                self.leave(server)  # the slot was given to it at the same moment
            raise

    def leave(self, server: ModelServer) -> None:
        """Release a slot."""
        server.throttle.active -= 1
        self._wake()

    def succeeded(self, server: ModelServer) -> None:
        """Record an answer. One from a server that is set aside ends its pause."""
        server.answered += 1
        server.failures, server.pause_s = 0, FIRST_PAUSE_S
        server.throttle.succeeded()
        if not server.is_up:
            server.until = self._clock()
        self._wake()

    def failed(self, server: ModelServer, sent_at: float, why: str, retry_after: float | None = None) -> None:
        """Record the failure of an attempt that was sent at `sent_at`. `retry_after`: the pause that the server asks for."""
        server.failures += 1
        if len(self.servers) == 1 or not server.is_up or sent_at <= server.set_aside_at:
            return
        if retry_after:
            self._set_aside(server, min(retry_after, MAX_RETRY_AFTER_S), "it asks for a pause")
        elif server.failures >= FAILURES:
            self._set_aside(server, server.next_pause(), why)

    def has_another(self, server: ModelServer) -> bool:
        """Whether a request that failed at a server can go to another one that is not set aside."""
        return any(other.is_up for other in self.servers if other is not server)

    async def look_again(self, check: Callable[[ModelServer], Awaitable[None]]) -> None:
        """Use the servers again whose pause is over and for which `check` raises no `UserError`."""
        for server in self.servers:
            if server.is_up or server.is_checked or self._clock() < server.until:
                continue
            server.is_checked = True
            try:
                await check(server)
            except UserError as error:
                self._set_aside(server, server.next_pause(), str(error))
            else:
                self._back(server)
            finally:
                server.is_checked = False

    def _set_aside(self, server: ModelServer, seconds: float, why: str) -> None:
        server.is_up, server.failures = False, 0
        server.set_aside_at = self._clock()
        server.until = server.set_aside_at + seconds
        self._log.warning(
            "model server %s is not used for %.0f s: %s", server.base_url, seconds, visible(why)
        )
        self._end_waits()
        self._wake()

    def _back(self, server: ModelServer) -> None:
        server.is_up = True
        self._log.warning("model server %s is used again", server.base_url)
        self._wake()

    def _usable(self, refused: Collection[ModelServer]) -> list[ModelServer]:
        """Return the servers that a request can be sent to: those that are up, or all if none is."""
        up = [server for server in self.servers if server.is_up] or self.servers
        return [server for server in up if server not in refused]

    def _wake(self) -> None:
        """Give the free slots to the requests that wait, in their order."""
        others: list[_Waiter] = []  # those that the servers with free slots have refused
        while self._waiters and _choice(self._usable(()), None) is not None:
            waiter = self._waiters.popleft()
            if waiter.future.done():
                continue
            server = _choice(self._usable(waiter.refused), waiter.last)
            if server is None:
                others.append(waiter)
            else:
                server.throttle.active += 1
                waiter.future.set_result(server)
        self._waiters.extendleft(reversed(others))

    def _end_waits(self) -> None:
        """End the waits of the requests for which no server is left."""
        for waiter in self._waiters:
            if not waiter.future.done() and not self._usable(waiter.refused):
                waiter.future.set_result(None)


def _choice(servers: Sequence[ModelServer], last: ModelServer | None) -> ModelServer | None:
    """Return the server with a free slot and the fewest outstanding requests, `last` only if no other has one."""
    free = [server for server in servers if server.throttle.is_free]
    return min(free, key=lambda server: (server is last, server.throttle.active), default=None)
