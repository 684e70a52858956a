"""Offline vLLM engines in Ray actors.

All prompts of a shard are given to the engines at once (continuous batching). A problem is returned as soon as its samples are
complete, with the sum of the log-probabilities of its sampled tokens. Every prompt has its own seed, so with a batch-invariant
engine its samples do not depend on order, batch or number of engines.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, cast

from prompts import Prompt, load_prompt
from tasks.answers.token_spans import TokenSpans, ends_of_pieces, token_spans
from tasks.config import ModelRole, Sampling, Serve
from tasks.errors import UserError
from tasks.llm.callbacks import WAIT_NOTICE_S, OnProgress, OnWait
from tasks.llm.chat_templates import role_template
from tasks.llm.invariance import BatchInvariance, check_invariance, engine_probes
from tasks.llm.model_folder import model_folder
from tasks.llm.prompt_tokens import PromptEncoder, UnsafeText
from tasks.llm.tokenizer import tokenizer_problem
from tasks.llm.tokenizer_identity import template_identity
from tasks.llm.vllm_options import LogprobsMode, engine_environment, engine_options
from tasks.processes.imports import fast_imports
from tasks.processes.machine import device_is_cpu, engine_device
from tasks.processes.ray_session import RaySession, last_error_line
from tasks.rows import Reason

POLL_S = 0.5  # interval between two collections of results; later results are lost by a kill


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePrompt:
    """A problem to sample. Sample i of n uses the seed `seed` + i. `examples` are those of the prompt (few-shot)."""

    problem_id: str
    prompt: str  # name of the prompt
    values: Mapping[str, str]  # of its variables
    seed: int
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def template(self) -> Prompt:
        """The prompt, with its examples."""
        found = load_prompt(self.prompt)
        return replace(found, examples=self.examples) if self.examples else found

    @property
    def messages(self) -> tuple[dict[str, str], ...]:
        """The chat messages."""
        return tuple(self.template.render(**self.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFailure:
    """A problem without samples: `prompt_too_long`, `control_token`, or `model_error` (remote teachers only). With an `index`, a
    single sample that cannot be used: `invalid_logprob`."""

    problem_id: str
    reason: Reason
    detail: str
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleOutput:
    """One sample of an engine. `logprob_sum` in nats; NaN if log-probabilities were not requested."""

    text: str
    token_count: int
    logprob_sum: float
    finish_reason: str
    spans: TokenSpans


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What is recorded of an engine: identity of its chat template, and whether samples depend on the batch."""

    template: str
    invariance: BatchInvariance


Result = list[SampleOutput] | SampleFailure
OnResult = Callable[[int, Result], None]
"""Called with the index of a prompt and its result, in order of completion."""


class Engines:
    """Offline engines, one Ray actor each. Without `logprobs` they return texts only, which takes less CPU time."""

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
        self._with_logprobs = logprobs is not None
        self._actors: list[Any] = []
        self.template = ""  # identity of the chat template
        self.invariance: BatchInvariance | None = None  # of the engine with most differences
        self._ray = RaySession(serve.engines)
        try:
            gpus = 0 if on_cpu else serve.tensor_parallel_size
            self._start(role, serve, environment, options, template, gpus, on_wait)
        except BaseException:
            self.close()
            raise

    def _start(
        self,
        role: ModelRole,
        serve: Serve,
        environment: dict[str, str],
        options: dict[str, Any],
        template: str | None,
        gpus: int,
        on_wait: OnWait | None,
    ) -> None:
        import ray

        actor = cast(Any, ray.remote)(num_cpus=1, num_gpus=gpus, max_concurrency=2, max_restarts=0)(
            EngineActor
        )
        arguments = (environment, options, role.thinking, template, self._with_logprobs)
        self._actors = [actor.remote(*arguments) for _ in range(serve.engines)]
        ready = self._wait(
            [actor.ready.remote() for actor in self._actors],
            lambda waited: (
                on_wait(waited, f"engine of {role.model} is starting") if on_wait is not None else None
            ),
            every=WAIT_NOTICE_S,
            limit=serve.health_timeout_s,
        )
        self.template = ready[0].template
        self.invariance = max((one.invariance for one in ready), key=lambda found: found.different)
        self._ray.guard_workers()

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
        import ray

        count, done = len(self._actors), 0
        settings = sampling.model_dump()

        def collect(_waited: float = 0.0) -> None:
            nonlocal done
            for number, found in enumerate(ray.get([actor.take.remote() for actor in self._actors])):
                for place, result in found:
                    on_result(number + place * count, result)
                done += len(found)
            if on_progress is not None:
                on_progress(done * n, len(prompts) * n)

        parts = [prompts[number::count] for number in range(count)]
        self._wait(
            [
                actor.draw.remote(list(part), n, settings)
                for actor, part in zip(self._actors, parts, strict=True)
            ],
            collect,
            every=POLL_S,
        )
        collect()

    def close(self) -> None:
        """End the engines and their Ray session."""
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
        """Return the results of the calls, and call `notice(seconds)` meanwhile. `UserError` for a dead or late engine."""
        import ray
        from ray.exceptions import RayError

        started = time.monotonic()
        try:
            while ray.wait(calls, num_returns=len(calls), timeout=every)[1]:
                ended = ray.wait(calls, num_returns=len(calls), timeout=0)[0]
                ray.get(ended)  # raises the error of an engine that has died
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


class EngineActor:
    """A vLLM engine in its own process, a Ray actor with two threads: one for `draw`, one for `take`."""

    def __init__(
        self,
        environment: dict[str, str],
        options: dict[str, Any],
        thinking: bool,
        chat_template: str | None = None,
        with_logprobs: bool = True,
    ) -> None:
        os.environ.update(environment, VLLM_ENABLE_V1_MULTIPROCESSING="0")
        with fast_imports():
            from vllm import LLM

        self._model: str = options["model"]
        self._requested = {"logprobs": 0, "flat_logprobs": True} if with_logprobs else {}
        self._context: int = options["max_model_len"]
        self._dtype: str = options["dtype"]
        self._finished: SimpleQueue[tuple[int, Result]] = SimpleQueue()
        self._engine: Any = LLM(**options).llm_engine
        self._tokenizer: Any = self._engine.get_tokenizer()
        given = {} if chat_template is None else {"chat_template": chat_template}
        if chat_template is not None:
            self._tokenizer.chat_template = (
                chat_template  # for its identity: vLLM's tokenizer renders another one
            )
        self._prompts = PromptEncoder(self._tokenizer, enable_thinking=thinking, **given)
        self._piece_of: dict[int, str] = {}  # token id -> its text
        self._last: tuple[tuple[Prompt, dict[str, str]], list[int]] | None = None

    def ready(self) -> EngineFacts:
        """Check tokenizer and batch invariance of the engine, and return the facts to record about it. Raises `UserError` for an
        unusable tokenizer."""
        if (wrong := tokenizer_problem(self._tokenizer, self._model)) is not None:
            raise UserError(wrong)
        invariance = check_invariance(engine_probes(self._engine), dtype=self._dtype, machine=engine_device())
        return EngineFacts(template=template_identity(self._tokenizer), invariance=invariance)

    def take(self) -> list[tuple[int, Result]]:
        """Return the results since the last call, each with the index of its prompt in the current (or last) `draw`."""
        taken = []
        with contextlib.suppress(Empty):
            while True:
                taken.append(self._finished.get_nowait())
        return taken

    def draw(self, prompts: list[SamplePrompt], n: int, sampling: dict[str, Any]) -> None:
        """Sample all prompts in one go; `take` returns the results that are complete."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        for place, prompt in enumerate(prompts):
            try:
                ids = self._encoded(prompt)
            except UnsafeText as error:
                failure = SampleFailure(
                    problem_id=prompt.problem_id, reason=Reason.CONTROL_TOKEN, detail=str(error)
                )
                self._finished.put((place, failure))
                continue
            free_tokens = self._context - len(ids)
            if free_tokens < 1:
                detail = f"{len(ids)} tokens, the context holds {self._context}"
                failure = SampleFailure(
                    problem_id=prompt.problem_id, reason=Reason.PROMPT_TOO_LONG, detail=detail
                )
                self._finished.put((place, failure))
                continue
            limits = sampling | {"max_tokens": min(sampling["max_tokens"], free_tokens)}
            params = SamplingParams(
                n=n, seed=prompt.seed, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY,
                **self._requested, **limits,
            )  # fmt: skip
            self._engine.add_request(str(place), {"prompt_token_ids": ids}, params)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    self._finished.put((int(output.request_id), self._outputs(output)))

    def _encoded(self, prompt: SamplePrompt) -> list[int]:
        """Return the token ids of a prompt. Those of the last one are kept, since the samples of a problem follow each other."""
        asked = (prompt.template, dict(prompt.values))
        if self._last is None or self._last[0] != asked:
            self._last = asked, self._prompts.encode(*asked)
        return self._last[1]

    def _outputs(self, output: Any) -> list[SampleOutput]:
        """Return the samples of one vLLM output, by index."""
        return [self._drawn(sample) for sample in sorted(output.outputs, key=lambda sample: sample.index)]

    def _drawn(self, sample: Any) -> SampleOutput:
        """Return one sample. Only the log-probability of the sampled token was requested, so the flat list has one entry per
        token."""
        ids = list(sample.token_ids)
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        if not self._requested:
            return SampleOutput(
                text=text, token_count=len(ids), logprob_sum=math.nan, finish_reason=str(sample.finish_reason),
                spans=TokenSpans(),
            )  # fmt: skip

        def decoded(count: int) -> int:
            """Fallback for tokenizers whose tokens, decoded one by one, do not add up to the text."""
            return len(self._tokenizer.decode(ids[:count], skip_special_tokens=True))

        ends = ends_of_pieces(text, self._pieces(ids)) or decoded
        total = math.nan if sample.cumulative_logprob is None else float(sample.cumulative_logprob)
        return SampleOutput(
            text=text, token_count=len(ids), logprob_sum=total, finish_reason=str(sample.finish_reason),
            spans=token_spans(text, sample.logprobs.logprobs, ends),
        )  # fmt: skip

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token by itself."""
        pieces = self._piece_of
        for token in set(ids) - pieces.keys():
            pieces[token] = self._tokenizer.decode([token])
        return [pieces[token] for token in ids]
