"""Offline vLLM engines in Ray actors, and the Ray they live in.

A whole shard goes into the engines at once (continuous batching) and only the sampled token's log-probability comes
back. Every prompt has its own seed, so its samples do not depend on order, batch, or the number of engines.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import psutil

from tasks.core.config import ModelRole, Sampling, Serve
from tasks.core.errors import UserError
from tasks.core.rows import Reason
from tasks.io.chat import Progress
from tasks.io.servers import (
    MIN_BATCHED_TOKENS,
    WAIT_NOTICE_S,
    OnWait,
    available_cores,
    device_is_cpu,
    engine_environment,
    model_folder,
)
from tasks.io.supervisor import Guard

OBJECT_STORE_BYTES = 256 * 1024**2
RAY_TRIES = 5
LogprobsMode = Literal["raw", "tempered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePrompt:
    """A problem to sample. The i-th of n samples is drawn with `seed` + i."""

    problem_id: str
    messages: Sequence[Mapping[str, str]]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFailure:
    """A problem without samples: `prompt_too_long`, `invalid_logprob`, or `model_error` (remote teachers only)."""

    problem_id: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One sample as the engine gives it."""

    text: str
    token_count: int
    logprob_sum: float
    finish_reason: str


Result = list[Draw] | SampleFailure


class Engines:
    """Offline engines, one Ray actor each."""

    def __init__(
        self, role: ModelRole, serve: Serve, root: Path, logprobs: LogprobsMode, on_wait: OnWait | None
    ) -> None:
        folder = model_folder(role.model, root)
        on_cpu = device_is_cpu()
        environment = engine_environment(
            serve, local=folder is not None, on_cpu=on_cpu, engines=serve.engines
        )
        options = engine_options(role, serve, str(folder or role.model), logprobs, on_cpu=on_cpu)
        self._model = role.model
        self._actors: list[Any] = []
        self._ray = _Ray(serve.engines)
        try:
            self._start(
                role, serve, environment, options, 0 if on_cpu else serve.tensor_parallel_size, on_wait
            )
        except BaseException:
            self.close()
            raise

    def _start(
        self,
        role: ModelRole,
        serve: Serve,
        environment: dict[str, str],
        options: dict[str, Any],
        gpus: int,
        on_wait: OnWait | None,
    ) -> None:
        import ray

        actor = cast(Any, ray.remote)(num_cpus=1, num_gpus=gpus, max_concurrency=2, max_restarts=0)(
            EngineActor
        )
        self._actors = [actor.remote(environment, options, role.thinking) for _ in range(serve.engines)]
        self._wait(
            [actor.ready.remote() for actor in self._actors],
            lambda waited: (
                on_wait(waited, f"engine of {role.model} is starting") if on_wait is not None else None
            ),
            every=WAIT_NOTICE_S,
            limit=serve.health_timeout_s,
        )
        self._ray.guard_workers()

    def draw(
        self,
        prompts: Sequence[SamplePrompt],
        n: int,
        sampling: Sampling,
        fingerprint: str,
        on_progress: Progress | None,
    ) -> list[Result]:
        import ray

        count, total = len(self._actors), len(prompts) * n
        settings = sampling.model_dump()

        def notice(_waited: float) -> None:
            if on_progress is not None:
                on_progress(sum(ray.get([actor.progress.remote() for actor in self._actors])), total)

        parts = self._wait(
            [actor.draw.remote(list(prompts[i::count]), n, settings) for i, actor in enumerate(self._actors)],
            notice,
        )
        results: list[Result] = [[]] * len(prompts)
        for i, part in enumerate(parts):
            results[i::count] = part
        if on_progress is not None:
            on_progress(total, total)
        return results

    def close(self) -> None:
        import ray

        for actor in self._actors:
            with contextlib.suppress(ValueError):  # Ray was shut down meanwhile
                ray.kill(actor)
        self._actors = []
        self._ray.close()

    def _wait(
        self,
        calls: list[Any],
        notice: Callable[[float], None],
        *,
        every: float = 1.0,
        limit: float = math.inf,
    ) -> list[Any]:
        """Results of the calls, calling `notice(seconds)` meanwhile. A dead or late engine is a `UserError`."""
        import ray
        from ray.exceptions import RayError

        started = time.monotonic()
        try:
            while ray.wait(calls, num_returns=len(calls), timeout=every)[1]:
                ended = ray.wait(calls, num_returns=len(calls), timeout=0)[0]
                ray.get(ended)  # raises at once what an engine died of
                waited = time.monotonic() - started
                if waited > limit:
                    raise UserError(
                        f"the engine of {self._model} did not start within {limit:.0f} s: raise `serve.health_timeout_s`"
                    )
                notice(waited)
            return ray.get(calls)
        except RayError as error:
            cause = last_error_line(str(error))
            raise UserError(
                f"the engine of {self._model} failed: {cause}; check `serve` and the model folder"
            ) from error


def engine_options(
    role: ModelRole, serve: Serve, model: str, logprobs: LogprobsMode, *, on_cpu: bool
) -> dict[str, Any]:
    """Arguments of `vllm.LLM`. On CPU a seeded prompt must not be split over two steps, hence no chunked prefill there."""
    options: dict[str, Any] = {
        "model": model,
        "revision": role.revision,
        "dtype": role.dtype,
        "max_model_len": role.max_model_len,
        "max_num_batched_tokens": max(role.max_model_len, MIN_BATCHED_TOKENS),
        "max_num_seqs": serve.max_num_seqs,
        "tensor_parallel_size": serve.tensor_parallel_size,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs" if logprobs == "tempered" else "raw_logprobs",
        "seed": 0,
    }
    if on_cpu:
        return options | {"enforce_eager": True, "enable_chunked_prefill": False}
    return options | {"gpu_memory_utilization": serve.gpu_memory_fraction}


class _Ray:
    """A connection to the Ray that runs (this process's, or the one at RAY_ADDRESS), else a Ray of our own.

    Some of Ray's helpers outlive a killed owner by minutes, so a Ray of our own is put under a guard.
    """

    def __init__(self, engines: int) -> None:
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # read when ray is imported
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(
            "RAY_worker_niceness", "0"
        )  # Ray's own 15 would starve an engine on a busy machine
        import ray

        self._guard: Guard | None = None
        self._ended = threading.Event()
        self._ours = not ray.is_initialized()
        if not self._ours:
            return
        address = os.environ.get("RAY_ADDRESS")
        if address:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            return
        self._guard = Guard()
        self._before = set(psutil.Process().children(recursive=True))
        try:
            self._in_lasting_thread(lambda: _start_ray(engines, self._new_processes, self._ended.is_set))
        except BaseException:
            self.close()
            raise
        self.guard_workers()

    def guard_workers(self) -> None:
        """Put what runs by now under the guard too."""
        if self._guard is not None:
            self._guard.watch(self._new_processes())

    def _in_lasting_thread(self, call: Callable[[], None]) -> None:
        """Make `call` in a thread that lives as long as this object: Ray's processes die with the thread that started them
        (PR_SET_PDEATHSIG), and the caller's may be a pool's. Also keeps Ray from replacing the SIGTERM handler."""
        outcome: Future[None] = Future()

        def live() -> None:
            try:
                outcome.set_result(call())
            except BaseException as error:  # handed to the caller whatever it is
                outcome.set_exception(error)
            self._ended.wait()

        threading.Thread(target=live, name="ray", daemon=True).start()
        outcome.result()

    def _new_processes(self) -> set[psutil.Process]:
        return set(psutil.Process().children(recursive=True)) - self._before

    def close(self) -> None:
        """Leave Ray as it was found."""
        import ray

        if self._ours:
            self.guard_workers()
            ray.shutdown()
        if self._guard is not None:
            self._guard.close()
        self._ended.set()


def _start_ray(
    engines: int, started: Callable[[], set[psutil.Process]], unwanted: Callable[[], bool]
) -> None:
    """Start Ray on this machine. Its parts give each other 15 seconds, too few on a busy machine, hence several tries.

    `started` gives the processes that a failed try left behind; they are ended before the next one. `unwanted` says that
    the caller has left meanwhile.
    """
    import ray

    for left in reversed(range(RAY_TRIES)):
        try:
            ray.init(
                address="local",
                num_cpus=max(available_cores(), engines),
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                object_store_memory=OBJECT_STORE_BYTES,
            )
            return
        except Exception as error:  # Ray raises a bare Exception when its node is late
            ray.shutdown()
            for process in started():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if not left or unwanted():
                raise UserError(
                    f"Ray did not start on this machine ({error}): end what keeps it busy and try again"
                ) from error


def last_error_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error:" in line and "ray::" not in line]
    return (errors or lines or ["no message"])[-1][:400]


class EngineActor:
    """A vLLM engine in its own process (a Ray actor with two threads: one draws, one answers `progress`)."""

    def __init__(self, environment: dict[str, str], options: dict[str, Any], thinking: bool) -> None:
        os.environ.update(environment, VLLM_ENABLE_V1_MULTIPROCESSING="0")
        from vllm import LLM

        self._thinking = thinking
        self._room: int = options["max_model_len"]
        self._counter: _Counter | None = None
        self._engine = LLM(**options)
        self._tokenizer: Any = self._engine.get_tokenizer()

    def ready(self) -> bool:
        return True

    def progress(self) -> int:
        """Samples finished by the running (or last) `draw`."""
        return 0 if self._counter is None else self._counter.n

    def draw(self, prompts: list[SamplePrompt], n: int, sampling: dict[str, Any]) -> list[Result]:
        from vllm import SamplingParams

        self._counter = None
        results: list[Result] = []
        tokens: list[Any] = []
        params: list[Any] = []
        for prompt in prompts:
            ids = self._encode(prompt)
            room = self._room - len(ids)
            if room < 1:
                detail = f"{len(ids)} tokens, the context holds {self._room}"
                results.append(
                    SampleFailure(problem_id=prompt.problem_id, reason=Reason.PROMPT_TOO_LONG, detail=detail)
                )
                continue
            limits = sampling | {"max_tokens": min(sampling["max_tokens"], room)}
            results.append([])
            tokens.append({"prompt_token_ids": ids})
            params.append(SamplingParams(n=n, seed=prompt.seed, logprobs=0, **limits))
        if tokens:
            self._engine.enqueue(tokens, params, use_tqdm=False)
        outputs = iter(self._engine.wait_for_completion(use_tqdm=cast(Any, self._count)))
        return [result if isinstance(result, SampleFailure) else _draws(next(outputs)) for result in results]

    def _encode(self, prompt: SamplePrompt) -> list[int]:
        text = self._tokenizer.apply_chat_template(
            [dict(message) for message in prompt.messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self._thinking,
        )
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _count(self, **_: object) -> _Counter:
        """A progress bar for vLLM to move."""
        self._counter = _Counter()
        return self._counter


def _draws(output: Any) -> list[Draw]:
    """The samples of one vLLM output, by index."""
    return [
        Draw(
            text=sample.text,
            token_count=len(sample.token_ids),
            logprob_sum=math.nan if sample.cumulative_logprob is None else float(sample.cumulative_logprob),
            finish_reason=str(sample.finish_reason),
        )
        for sample in sorted(output.outputs, key=lambda sample: sample.index)
    ]


class _Counter:
    """The part of a tqdm bar that vLLM's offline loop uses."""

    def __init__(self) -> None:
        self.n = 0
        self.postfix = ""
        self._started = time.monotonic()

    @property
    def format_dict(self) -> dict[str, float]:
        return {"elapsed": max(time.monotonic() - self._started, 1e-6)}

    def update(self, count: int = 1) -> None:
        self.n += count

    def refresh(self) -> None:
        """Nothing is drawn."""

    def close(self) -> None:
        """Nothing is drawn."""
