"""Offline vLLM engines in Ray actors.

A whole shard goes into the engines at once (continuous batching) and only the sampled token's log-probability comes
back. Every prompt has its own seed, so its samples do not depend on order, batch, or the number of engines.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from tasks.core.config import ModelRole, Sampling, Serve
from tasks.core.errors import UserError
from tasks.core.rows import Reason
from tasks.io.chat import Progress
from tasks.io.ray_session import RaySession, last_error_line
from tasks.io.servers import (
    MIN_BATCHED_TOKENS,
    WAIT_NOTICE_S,
    OnWait,
    device_is_cpu,
    engine_environment,
    model_folder,
)

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
        self._ray = RaySession(serve.engines)
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
