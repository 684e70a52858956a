"""Send batches of requests to one model back to back: a batch starts when the last request of the previous one has been sent,
so that the server stays busy while the slowest answers of a batch are still being generated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from tasks.llm.chat import ChatModel, ChatOutcome, ChatRequest
from tasks.processes.loops import LoopThread

SHOW_S = 1.0  # seconds between two progress reports of a batch


class Tally:
    """Number of requests of a batch that have an outcome; a progress callback."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, done: int, _total: int) -> None:
        self.done = done


@dataclass(frozen=True, slots=True)
class Answers:
    """The future outcomes of a batch."""

    future: Future[list[ChatOutcome]]
    tally: Tally

    def wait(self, on_progress: Callable[[int], None]) -> list[ChatOutcome]:
        """Wait for all outcomes and return them in the order of the requests. Calls `on_progress(done)` about once a second,
        which may raise. Raises the exception of the batch if it failed."""
        while True:
            try:
                return self.future.result(SHOW_S)
            except TimeoutError:
                if self.future.done():
                    raise
            on_progress(self.tally.done)


class Turns:
    """A queue of batches for one model.

    Use as a context manager, from one thread; batches that are unfinished at the end of the block are cancelled. `model` is
    called at the first non-empty batch; nothing else may use that model inside the block.
    """

    def __init__(self, model: Callable[[], ChatModel]) -> None:
        self._model = model
        self._thread = LoopThread("requests")
        self._last: asyncio.Event | None = None

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.close()

    def ask(self, requests: Sequence[ChatRequest]) -> Answers:
        """Submit a batch. It starts at once, or when the last request of the previous batch has been sent."""
        tally = Tally()
        if not requests:
            nothing: Future[list[ChatOutcome]] = Future()
            nothing.set_result([])
            return Answers(nothing, tally)
        model, before, sent = self._model(), self._last, asyncio.Event()
        self._last = sent

        async def answer() -> list[ChatOutcome]:
            try:
                if before is not None:
                    await before.wait()
                return await model.outcomes(requests, on_progress=tally, on_sent=sent.set)
            finally:
                sent.set()

        return Answers(self._thread.submit(answer()), tally)
