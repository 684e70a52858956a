"""The engines of a run: model servers, and the offline engines of the teacher.

`OnDemand` starts an engine when it is used and stops it afterwards. An `EnginePool` keeps an engine that a later role uses too,
and starts the next engine while the present one works.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from tasks.llm.callbacks import OnWait
from tasks.processes.timeline import Timeline

POLL_S = 0.5
"""Seconds between two calls of `on_wait`, which may end the wait."""

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine that a role uses.

    Roles whose engines have equal `settings` share one. `memory` is what it takes of the device's memory, in the unit of the
    pool's capacity; None for a model that is served elsewhere. `open(on_wait)` starts it and stops it at the end of the block.
    """

    role: str
    settings: Hashable
    memory: float | None
    open: Callable[[OnWait], AbstractContextManager[Any]] = field(compare=False)


@runtime_checkable
class Engines(Protocol):
    """Provides engines for the stages of a run."""

    def use(self, engine: Engine, on_wait: OnWait) -> AbstractContextManager[Any]:
        """Provide the engine for a block. `on_wait` is called every few seconds while it starts, and may raise."""
        ...

    def is_up(self, engine: Engine) -> bool:
        """Whether the engine has been started already."""
        ...


class OnDemand:
    """Engines that are started for each use and stopped after it."""

    def use(self, engine: Engine, on_wait: OnWait) -> AbstractContextManager[Any]:
        """See `Engines.use`."""
        return engine.open(on_wait)

    def is_up(self, engine: Engine) -> bool:
        """See `Engines.is_up`."""
        return False


class _Unwanted(Exception):
    """Raised in a start that is no longer needed."""


class _Started:
    """An engine that starts, or has started, in the pool's thread."""

    def __init__(self, engine: Engine, *, ahead: bool) -> None:
        self.engine, self.ahead, self.users = engine, ahead, 0
        self.future: Future[Any] = Future()
        self.unwanted = threading.Event()
        self._stack, self._began, self._step = ExitStack(), time.monotonic(), ""

    def start(self, timeline: Timeline) -> None:
        """Start the engine. Its value, or the error, is that of `future`."""
        try:
            self._note(0.0, "")
            with timeline.phase("start ahead" if self.ahead else "start", self.engine.role):
                value = self._stack.enter_context(self.engine.open(self._note))
        except BaseException as error:  # raised again where the engine is used
            self.future.set_exception(error)
        else:
            self.future.set_result(value)

    def stop(self) -> None:
        """Stop the engine, if it runs. Waits for the end of its start."""
        wait_for([self.future])
        self._stack.close()

    def wait(self, on_wait: OnWait) -> None:
        """Wait until the start has succeeded or failed."""
        while not wait_for([self.future], POLL_S).done:
            on_wait(time.monotonic() - self._began, self._step)

    def failed(self) -> bool:
        """Whether the start has ended with an error."""
        return self.future.done() and self.future.exception() is not None

    def _note(self, _seconds: float, step: str) -> None:
        if self.unwanted.is_set():
            raise _Unwanted
        self._step = step


class EnginePool:
    """The engines of a run, which is told all of them in their `order` of use. Use it as a context manager.

    While the first engine works, the next one of the order is started, then the one after, as long as the memory of all that
    are up is within the `capacity`. An engine stays up after its use if a later role needs it, unless another one needs its
    memory first. `starts` engines start at a time: one where an engine measures the free memory while it starts, so that the
    next one starts once it is ready. An early start that fails is repeated when its engine is needed; the error is then raised
    there. Leaving the block stops all engines.
    """

    def __init__(
        self, order: Sequence[Engine], capacity: float, log: Log, timeline: Timeline, *, starts: int = 1
    ) -> None:
        self._order, self._capacity, self._log, self._timeline = tuple(order), capacity, log, timeline
        self._starts = starts
        self._threads = ThreadPoolExecutor(starts, "engines")
        self._lock = threading.RLock()
        self._up: dict[Hashable, _Started] = {}
        self._place = -1  # in the order, of the last role that was used
        self._stops: list[Future[None]] = []
        self._closed = False

    def __enter__(self) -> EnginePool:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._lock:
            self._closed = True
            for started in list(self._up.values()):
                self._stop(started)
        self._threads.shutdown()
        for stop in self._stops if kind is None else ():
            stop.result()

    def is_up(self, engine: Engine) -> bool:
        """See `Engines.is_up`."""
        with self._lock:
            return engine.settings in self._up and not self._up[engine.settings].failed()

    @contextmanager
    def use(self, engine: Engine, on_wait: OnWait) -> Iterator[Any]:
        """See `Engines.use`."""
        started = self._acquire(engine)
        try:
            with self._timeline.phase("wait", engine.role):
                started.wait(on_wait)
                if started.ahead and started.failed():
                    started = self._again(started)
                    started.wait(on_wait)
            yield started.future.result()
        finally:
            self._release(engine, started)
        self._start_next()

    def _acquire(self, engine: Engine) -> _Started:
        with self._lock:
            self._place = max(self._place, self._place_of(engine))
            started = self._up.get(engine.settings)
            if started is None:
                self._make_room(engine)
                started = self._start(engine, ahead=False)
            started.users += 1
        self._start_next()
        return started

    def _again(self, failed: _Started) -> _Started:
        """Repeat an early start that failed, without any engine that is not in use."""
        with self._lock:
            current = self._up.get(failed.engine.settings)
            if current is not failed and current is not None:
                return current  # another thread was first
            why = failed.future.exception()
            self._log(f"{_name(failed.engine)}: the early start failed and is repeated ({why})")
            for other in [one for one in self._up.values() if not one.users or one is failed]:
                self._stop(other)
            started = self._start(failed.engine, ahead=False)
            started.users = failed.users
            return started

    def _release(self, engine: Engine, started: _Started) -> None:
        with self._lock:
            started.users -= 1
            later = self._order[self._place_of(engine) + 1 :]
            needed = not started.failed() and any(one.settings == engine.settings for one in later)
            if not started.users and not needed and self._up.get(engine.settings) is started:
                self._stop(started)

    def _place_of(self, engine: Engine) -> int:
        return next(place for place, one in enumerate(self._order) if one.role == engine.role)

    def _start(self, engine: Engine, *, ahead: bool) -> _Started:
        started = self._up[engine.settings] = _Started(engine, ahead=ahead)
        self._threads.submit(started.start, self._timeline)
        started.future.add_done_callback(lambda _future: self._start_next())
        return started

    def _stop(self, started: _Started) -> None:
        del self._up[started.engine.settings]
        started.unwanted.set()
        self._stops.append(self._threads.submit(started.stop))

    def _start_next(self) -> None:
        """Start the next engine of the order that is not up, unless enough are starting or its memory does not suffice."""
        with self._lock:
            following = self._order[self._place + 1 :]
            own = (one for one in following if one.memory is not None)
            coming = next((one for one in own if one.settings not in self._up), None)
            starting = sum(not started.future.done() for started in self._up.values())
            if self._closed or coming is None or starting >= self._starts or not self._fits(coming):
                return
            self._log(f"starting the {_name(coming)} ahead of its first use")
            self._start(coming, ahead=True)

    def _make_room(self, engine: Engine) -> None:
        """Stop engines that are not in use until the memory suffices for `engine`."""
        for idle in [one for one in self._up.values() if not one.users]:
            if not self._fits(engine):
                self._stop(idle)

    def _fits(self, engine: Engine) -> bool:
        taken = (started.engine.memory or 0.0 for started in self._up.values() if not started.failed())
        return sum(taken) + (engine.memory or 0.0) <= self._capacity


def _name(engine: Engine) -> str:
    return engine.role.replace("_", " ")
