"""Offline vLLM engines, each in a process of its own: on this machine, or on the Ray cluster at RAY_ADDRESS."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tasks.config import ModelRole, Sampling, Serve
from tasks.errors import UserError
from tasks.llm.callbacks import WAIT_NOTICE_S, OnProgress, OnWait
from tasks.llm.chat_templates import role_template
from tasks.llm.engine_hosts import EngineFailed, EngineHost, on_cluster, on_this_machine
from tasks.llm.invariance import BatchInvariance
from tasks.llm.model_folder import model_folder
from tasks.llm.offline_engine import Result, SamplePrompt
from tasks.llm.vllm_options import LogprobsMode, engine_environment, engine_options
from tasks.processes.machine import device_is_cpu

POLL_S = 0.5  # interval between two collections of results; later results are lost by a kill

OnResult = Callable[[int, Result], None]
"""Called with the index of a prompt and its result, in order of completion."""


class Engines:
    """The offline engines of a role. Without `logprobs` they return texts only, which takes less CPU time."""

    def __init__(
        self, role: ModelRole, serve: Serve, root: Path, logprobs: LogprobsMode | None, on_wait: OnWait | None
    ) -> None:
        folder, template = model_folder(role.model, root), role_template(role, root)
        on_cpu = device_is_cpu()
        environment = engine_environment(
            serve, local=folder is not None, on_cpu=on_cpu, engines=serve.engines
        )
        options = engine_options(role, serve, str(folder or role.model), logprobs or "raw", on_cpu=on_cpu)
        self._model = role.model
        self._stack = ExitStack()
        self._hosts: list[EngineHost] = []
        self.template = ""  # identity of the chat template
        self.invariance: BatchInvariance | None = None  # of the engine with most differences
        gpus = 0 if on_cpu else serve.tensor_parallel_size
        arguments = (environment, options, role.thinking, template, logprobs is not None)
        try:
            hosts = on_cluster if os.environ.get("RAY_ADDRESS") else on_this_machine
            self._hosts = self._stack.enter_context(hosts(serve.engines, gpus))
            self._start(arguments, serve.health_timeout_s, on_wait)
        except BaseException:
            self.close()
            raise

    def _start(self, arguments: tuple[Any, ...], limit_s: float, on_wait: OnWait | None) -> None:
        def start(host: EngineHost) -> Any:
            host.start(*arguments)
            return host.call("ready")

        def notice(waited: float) -> None:
            if waited > limit_s:
                raise UserError(
                    f"the engine of {self._model} did not start within {limit_s:.0f} s: raise `serve.health_timeout_s`"
                )
            if on_wait is not None:
                on_wait(waited, f"engine of {self._model} is starting")

        ready = self._wait(
            [_thread(lambda host=host: start(host)) for host in self._hosts], notice, WAIT_NOTICE_S
        )
        self.template = ready[0].template
        self.invariance = max((one.invariance for one in ready), key=lambda found: found.different)

    def draw(
        self,
        prompts: Sequence[SamplePrompt],
        n: int,
        sampling: Sampling,
        fingerprint: str,
        on_result: OnResult,
        on_progress: OnProgress | None,
    ) -> None:
        """Sample every prompt; pass each result to `on_result` soon after it is complete. `on_progress` counts samples."""
        count, done = len(self._hosts), 0
        settings = sampling.model_dump()
        finished: SimpleQueue[tuple[int, Result]] = SimpleQueue()

        def run(number: int, host: EngineHost) -> None:
            host.call("add", prompts[number::count], n, settings)
            left = True
            while left:
                found, left = host.call("advance", POLL_S)
                for place, result in found:
                    finished.put((number + place * count, result))

        def collect(_waited: float = 0.0) -> None:
            nonlocal done
            for place, result in _taken(finished):
                on_result(place, result)
                done += 1
            if on_progress is not None:
                on_progress(done * n, len(prompts) * n)

        calls = [
            _thread(lambda number=number, host=host: run(number, host))
            for number, host in enumerate(self._hosts)
        ]
        self._wait(calls, collect, POLL_S)
        collect()

    def close(self) -> None:
        """End the engines."""
        self._stack.close()

    def _wait(self, calls: list[Future[Any]], notice: Callable[[float], None], every: float) -> list[Any]:
        """Return the results of the calls, and call `notice(seconds)` meanwhile. `UserError` for an engine that has failed."""
        began = time.monotonic()
        try:
            while (ended := wait(calls, every, FIRST_EXCEPTION)).not_done:
                for call in ended.done:
                    call.result()  # raises the error of an engine that has failed
                notice(time.monotonic() - began)
            return [call.result() for call in calls]
        except EngineFailed as error:
            raise UserError(
                f"the engine of {self._model} failed: {error}; check `serve` and the model folder"
            ) from error


def _thread(call: Callable[[], Any]) -> Future[Any]:
    """Run `call` in a thread, which does not keep this process from ending."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # raised again in the caller
            outcome.set_exception(error)

    threading.Thread(target=run, name="engine", daemon=True).start()
    return outcome


def _taken(queue: SimpleQueue[tuple[int, Result]]) -> list[tuple[int, Result]]:
    """Return what is in the queue."""
    taken = []
    try:
        while True:
            taken.append(queue.get_nowait())
    except Empty:
        return taken
