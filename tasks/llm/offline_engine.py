"""An offline vLLM engine, and what it is given and returns.

All prompts are given to the engine at once (continuous batching). A problem is returned as soon as its samples are complete, with
the sum of the log-probabilities of its sampled tokens. Every prompt has its own seed, so with a batch-invariant engine its
samples do not depend on order, batch or number of engines.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prompts import Prompt, load_prompt
from tasks.answers.token_spans import TokenSpans, ends_of_pieces, token_spans
from tasks.errors import UserError
from tasks.llm.invariance import BatchInvariance, check_invariance, engine_probes
from tasks.llm.prompt_tokens import PromptEncoder, UnsafeText
from tasks.llm.tokenizer import tokenizer_problem
from tasks.llm.tokenizer_identity import template_identity
from tasks.processes.imports import fast_imports
from tasks.processes.machine import engine_device
from tasks.rows import Reason


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


class OfflineEngine:
    """A vLLM engine, for a process of its own. `add` gives it prompts, and `advance` lets it work on them."""

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
        self._refused: list[tuple[int, Result]] = []
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

    def add(self, prompts: Sequence[SamplePrompt], n: int, sampling: dict[str, Any]) -> None:
        """Give the engine prompts, with `n` samples each."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        for place, prompt in enumerate(prompts):
            ids = self._fitting(prompt)
            if isinstance(ids, SampleFailure):
                self._refused.append((place, ids))
                continue
            limits = sampling | {"max_tokens": min(sampling["max_tokens"], self._context - len(ids))}
            params = SamplingParams(
                n=n, seed=prompt.seed, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY,
                **self._requested, **limits,
            )  # fmt: skip
            self._engine.add_request(str(place), {"prompt_token_ids": ids}, params)

    def advance(self, seconds: float) -> tuple[list[tuple[int, Result]], bool]:
        """Work for about so long. Return what was completed, each with the index of its prompt, and whether more is left."""
        found, self._refused = self._refused, []
        end = time.monotonic() + seconds
        while self._engine.has_unfinished_requests() and time.monotonic() < end:
            found += [
                (int(output.request_id), self._outputs(output))
                for output in self._engine.step()
                if output.finished
            ]
        return found, self._engine.has_unfinished_requests()

    def _fitting(self, prompt: SamplePrompt) -> list[int] | SampleFailure:
        """Return the token ids of a prompt, or why it cannot be sampled."""
        try:
            ids = self._encoded(prompt)
        except UnsafeText as error:
            return SampleFailure(problem_id=prompt.problem_id, reason=Reason.CONTROL_TOKEN, detail=str(error))
        if len(ids) < self._context:
            return ids
        detail = f"{len(ids)} tokens, the context holds {self._context}"
        return SampleFailure(problem_id=prompt.problem_id, reason=Reason.PROMPT_TOO_LONG, detail=detail)

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
