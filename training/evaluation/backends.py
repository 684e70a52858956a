"""Where samples come from: offline engines on this machine or cluster, or an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from tasks.config import PROJECT_ROOT
from tasks.llm.completions import storable
from tasks.llm.engines import Engines
from tasks.llm.offline_engine import Result, SampleFailure, SamplePrompt
from tasks.rows import Reason
from training.evaluation.jobs import EvaluationSampling
from training.evaluation.models import Model

CHARS_PER_TOKEN = 16
"""Longest text that is taken from an endpoint, per token of the limit."""
NOTE_S = 10.0
Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """One generated sample, or why there is none: `finish_reason` is then `prompt_too_long`, `control_token` or `error`, and
    `text` has the details."""

    text: str
    tokens: int
    prompt_tokens: int
    finish_reason: str

    @property
    def generated(self) -> bool:
        """Whether there is a response."""
        return self.finish_reason not in FAILED


FAILED = ("prompt_too_long", "control_token", "error")
OnSample = Callable[[int, Raw], None]


class Backend(Protocol):
    """Generates one sample for each prompt; `on_sample(place of the prompt, sample)` in order of completion."""

    def generate(
        self, prompts: Sequence[SamplePrompt], sampling: EvaluationSampling, on_sample: OnSample
    ) -> None: ...


def from_ledger(value: Any) -> Raw | None:
    """Return the sample in a ledger entry; None if there is none, or it cannot be used."""
    try:
        raw = Raw(**value)
    except TypeError:
        return None
    counts = raw.tokens, raw.prompt_tokens
    usable = (
        storable(raw.text)
        and storable(raw.finish_reason)
        and all(type(one) is int and one >= 0 for one in counts)
    )
    return raw if usable and raw.generated else None


class EngineBackend:
    """Offline engines on this machine, or on the Ray cluster at RAY_ADDRESS."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def generate(
        self, prompts: Sequence[SamplePrompt], sampling: EvaluationSampling, on_sample: OnSample
    ) -> None:
        """See `Backend.generate`."""

        def result(number: int, found: Result) -> None:
            on_sample(number, _raw(found))

        self._engines.draw(prompts, 1, sampling, "", result, None)


def _raw(found: Result) -> Raw:
    if isinstance(found, SampleFailure):
        return Raw(text=found.detail, tokens=0, prompt_tokens=0, finish_reason=str(found.reason))
    (sample,) = found
    text = sample.text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text
    return Raw(text=text, tokens=sample.token_count, prompt_tokens=0, finish_reason=sample.finish_reason)


class EndpointBackend:
    """An OpenAI-compatible endpoint. Besides temperature and top-p, a vLLM server gets the settings that would otherwise be those
    of its model's generation_config.json."""

    def __init__(self, model: Model, thinking: bool) -> None:
        self._role = model.role(thinking)
        self._identity = model.identity

    def generate(
        self, prompts: Sequence[SamplePrompt], sampling: EvaluationSampling, on_sample: OnSample
    ) -> None:
        """See `Backend.generate`."""
        from tasks.llm.chat import (  # loads the HTTP clients: a second that engines do not need
            ChatModel,
            ChatRequest,
        )
        from tasks.llm.servers import check_endpoint

        handle = check_endpoint(self._role)
        chat = ChatModel(
            self._role, handle.base_urls, handle.model_name, self._identity, offer=handle.offer,
            max_reply_chars=max(100_000, CHARS_PER_TOKEN * sampling.max_tokens),
        )  # fmt: skip
        extra: dict[str, Any] = {"top_k": sampling.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
        requests = (
            ChatRequest(
                key=str(number), messages=prompt.messages, sampling=sampling, prompt=prompt.template.fingerprint,
                seed=prompt.seed, extra=extra if handle.offer.is_vllm else {},
            )
            for number, prompt in enumerate(prompts)
        )  # fmt: skip

        async def collect() -> None:
            async with aclosing(chat.complete(requests)) as outcomes:
                async for outcome in outcomes:
                    on_sample(int(outcome.key), _from_chat(outcome))

        asyncio.run(collect())


def _from_chat(outcome: Any) -> Raw:
    from tasks.llm.chat import Failure

    if isinstance(outcome, Failure):
        too_many = "maximum context length" in outcome.reason or "context_length" in outcome.reason
        reason = (
            "control_token"
            if outcome.code is Reason.CONTROL_TOKEN
            else "prompt_too_long"
            if too_many
            else "error"
        )
        return Raw(text=outcome.reason, tokens=0, prompt_tokens=0, finish_reason=reason)
    return Raw(
        text=outcome.text, tokens=outcome.completion_tokens, prompt_tokens=outcome.prompt_tokens,
        finish_reason=outcome.finish_reason,
    )  # fmt: skip


OpenBackend = Callable[[bool, int], Backend]
"""Returns the backend of a thinking mode, for prompts and responses of so many tokens together."""


@contextmanager
def backends(model: Model, log: Log) -> Iterator[OpenBackend]:
    """Yield a function that opens backends. Engines are started at its first call and end with the block, or when another
    thinking mode or a longer context is asked for."""
    open_engines: dict[tuple[bool, int], Engines] = {}

    def close() -> None:
        while open_engines:
            open_engines.popitem()[1].close()

    def backend(thinking: bool, tokens: int) -> Backend:
        if model.folder is None:
            return EndpointBackend(model, thinking)
        role = model.role(thinking, tokens)
        fitting = [
            one
            for (mode, size), one in open_engines.items()
            if mode is thinking and size >= role.max_model_len
        ]
        if not fitting:
            close()
            log(f"starting {model.source}")
            assert role.serve is not None
            engines = Engines(role, role.serve, PROJECT_ROOT, None, waiting(log))
            open_engines[thinking, role.max_model_len] = engines
            fitting = [engines]
            if engines.invariance is not None:
                log(engines.invariance.description)
        return EngineBackend(fitting[0])

    try:
        yield backend
    finally:
        close()


def waiting(log: Log) -> Callable[[float, str], None]:
    """Return a callback that logs the seconds of waiting, at most every ten seconds."""
    logged = 0.0

    def on_wait(seconds: float, line: str) -> None:
        nonlocal logged
        if seconds - logged >= NOTE_S:
            logged = seconds
            log(f"{line}, {seconds:.0f} s")

    return on_wait
