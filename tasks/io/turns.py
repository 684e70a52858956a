"""Batches of requests to one model, one after the other without a gap: a batch begins when the last request of the one before
is on its way, so that the server is busy while the slowest answers of a batch are still being written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from tasks.io.chat import ChatModel, ChatRequest, Outcome
from tasks.io.loops import cancel_the_others

SHOW_S = 1.0  # between two words on how far a batch is


class Tally:
    """How many requests of a batch have an outcome."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, done: int, _total: int) -> None:
        self.done = done


@dataclass(frozen=True, slots=True)
class Answers:
    """The outcomes of a batch that is on its way."""

    future: Future[list[Outcome]]
    tally: Tally

    def wait(self, at: Callable[[int], None]) -> list[Outcome]:
        """All of them, in the order of the requests; `at(done)` is called about once a second, and may raise. What answering
        raised is raised here."""
        while True:
            try:
                return self.future.result(SHOW_S)
            except TimeoutError:
                if self.future.done():
                    raise
            at(self.tally.done)


class Turns:
    """Use as a context manager: what is still on its way when the block ends is cancelled. `model` is called at the first
    batch that holds a request; nothing else may use that model while the block lasts. From one thread."""

    def __init__(self, model: Callable[[], ChatModel]) -> None:
        self._model = model
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="requests", daemon=True)
        self._last: asyncio.Event | None = None

    def __enter__(self) -> Turns:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(cancel_the_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, requests: Sequence[ChatRequest]) -> Answers:
        """Have a batch answered: at once, or when the last request of the batch before it has been sent."""
        tally = Tally()
        if not requests:
            nothing: Future[list[Outcome]] = Future()
            nothing.set_result([])
            return Answers(nothing, tally)
        model, before, sent = self._model(), self._last, asyncio.Event()
        self._last = sent

        async def answer() -> list[Outcome]:
            try:
                if before is not None:
                    await before.wait()
                return await model.outcomes(requests, on_progress=tally, on_sent=sent.set)
            finally:
                sent.set()

        return Answers(asyncio.run_coroutine_threadsafe(answer(), self._loop), tally)
