"""The teacher's N samples with their log-probabilities, from local engines or from a remote endpoint."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path

from tasks.answers.extraction import extract_answer
from tasks.answers.token_spans import TokenSpans
from tasks.config import ModelRole, Sampling
from tasks.errors import UserError
from tasks.identity import canonical_json
from tasks.llm.callbacks import OnProgress, OnWait
from tasks.llm.chat import ChatModel, ChatOutcome, ChatRequest, Failure, Usage
from tasks.llm.completions import plausible
from tasks.llm.engines import Engines, OnResult
from tasks.llm.invariance import BatchInvariance
from tasks.llm.ledger import Ledger
from tasks.llm.offline_engine import Result, SampleFailure, SampleOutput, SamplePrompt
from tasks.llm.servers import check_endpoint
from tasks.llm.vllm_options import LogprobsMode
from tasks.rows import Reason, Response

__all__ = ["SampleFailure", "SamplePrompt", "Sampled", "TeacherSampler"]

Sampled = list[Response | SampleFailure]
"""The result of one problem: its samples in order (a failure in place of a sample that cannot be used), or one failure."""


class TeacherSampler:
    """Samples a role's model inside a `with` block; engines start once, at its beginning.

    `root` is the project's folder; `identity` is the model's identity, stored with every row. `logprobs="tempered"` sums the
    log-probabilities after temperature and truncation instead of the model's own. A remote teacher (`role.base_url`) returns the
    same rows through `ChatModel`, which stores its answers in `ledger`; it supports raw log-probabilities only.

    Entering raises `UserError` if the model is missing, the endpoint does not answer, or an engine does not start within
    `serve.health_timeout_s`. The engines end with the block, whatever ends it.
    """

    def __init__(
        self,
        role: ModelRole,
        *,
        root: Path,
        identity: str,
        logprobs: LogprobsMode = "raw",
        ledger: Ledger | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        self.role = role
        self.identity = identity
        self._root = root
        self._logprobs: LogprobsMode = logprobs
        self._ledger = ledger
        self._on_wait = on_wait
        self._backend: Engines | _Remote | None = None

    def __enter__(self) -> TeacherSampler:
        if self.role.serve is not None:
            self._backend = Engines(self.role, self.role.serve, self._root, self._logprobs, self._on_wait)
        elif self._logprobs == "tempered":
            raise UserError(
                "sample.logprobs is 'tempered', which only an engine served here can give: set it to 'raw'"
            )
        else:
            self._backend = _Remote(self.role, self.identity, self._ledger)
        return self

    @property
    def invariance(self) -> BatchInvariance | None:
        """Result of the engines' check of batch invariance; None for a remote teacher."""
        return self._backend.invariance if isinstance(self._backend, Engines) else None

    @property
    def usage(self) -> Usage | None:
        """Usage of a remote teacher so far; None for engines."""
        return self._backend.usage if isinstance(self._backend, _Remote) else None

    def __exit__(self, *_: object) -> None:
        if isinstance(self._backend, Engines):
            self._backend.close()
        self._backend = None

    def sample(
        self,
        prompts: Sequence[SamplePrompt],
        n: int,
        sampling: Sampling,
        prompt_fingerprint: str,
        *,
        on_problem: Callable[[Sampled], None] | None = None,
        on_progress: OnProgress | None = None,
    ) -> Sampled:
        """Return `n` responses, or one failure, for each prompt, in the order of the prompts.

        `on_problem(rows)` is called from this thread for each problem as soon as its samples are complete.
        `on_progress(done, total)` counts samples. A sample with an invalid log-probability (NaN, positive, missing or too low)
        becomes a failure with its index; the other samples of the problem are kept. Raises `UserError` for n > 1 at
        temperature 0, and if an engine or the endpoint dies.
        """
        if self._backend is None:
            raise RuntimeError("TeacherSampler.sample works inside its `with` block only")
        if n > 1 and sampling.temperature == 0.0:
            raise UserError(
                f"{n} samples at temperature 0 are all the same: set sample.sampling.temperature above 0"
            )
        rows: dict[int, Sampled] = {}
        provenance = self._provenance(sampling)

        def finished(place: int, result: Result) -> None:
            rows[place] = self._rows(prompts[place], result, prompt_fingerprint, provenance)
            if on_problem is not None:
                on_problem(rows[place])

        self._backend.draw(prompts, n, sampling, prompt_fingerprint, finished, on_progress)
        return [row for place in range(len(prompts)) for row in rows[place]]

    def _provenance(self, sampling: Sampling) -> str:
        """Return the sampling settings as JSON; the chat template of a remote teacher is unknown."""
        template = self._backend.template if isinstance(self._backend, Engines) else None
        known = {"thinking": self.role.thinking, "logprobs": self._logprobs, "template": template}
        return canonical_json(sampling.model_dump() | known)

    def _rows(self, prompt: SamplePrompt, result: Result, fingerprint: str, provenance: str) -> Sampled:
        if isinstance(result, SampleFailure):
            return [result]
        return [
            self._row(prompt, index, output, fingerprint, provenance) for index, output in enumerate(result)
        ]

    def _row(
        self, prompt: SamplePrompt, index: int, output: SampleOutput, fingerprint: str, provenance: str
    ) -> Response | SampleFailure:
        if not (output.token_count > 0 and plausible(output.logprob_sum, output.token_count)):
            detail = f"sample {index}: log-probability {output.logprob_sum} over {output.token_count} tokens"
            return SampleFailure(
                problem_id=prompt.problem_id, reason=Reason.INVALID_LOGPROB, detail=detail, index=index
            )
        text = output.text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text
        return Response(
            problem_id=prompt.problem_id,
            index=index,
            text=text,
            token_count=output.token_count,
            logprob_sum=output.logprob_sum,
            finish_reason=output.finish_reason,
            answer=extract_answer(text),
            model=self.identity,
            prompt=fingerprint,
            sampling=provenance,
            seed=prompt.seed + index,
            **asdict(output.spans),
        )


# --- a remote teacher --------------------------------------------------------------------------------------------


class _Remote:
    """Sends one request per sample, with the seed that an engine would use."""

    def __init__(self, role: ModelRole, identity: str, ledger: Ledger | None) -> None:
        handle = check_endpoint(role)
        self._chat = ChatModel(
            role, handle.base_urls, handle.model_name, identity, ledger, offer=handle.offer
        )
        self.usage = self._chat.usage

    def draw(
        self,
        prompts: Sequence[SamplePrompt],
        n: int,
        sampling: Sampling,
        fingerprint: str,
        on_result: OnResult,
        on_progress: OnProgress | None,
    ) -> None:
        """Like `Engines.draw`."""
        requests = [
            ChatRequest(
                key=f"{place} {index}",
                messages=prompt.messages,
                sampling=sampling,
                prompt=fingerprint,
                seed=prompt.seed + index,
                logprobs=True,
            )
            for place, prompt in enumerate(prompts)
            for index in range(n)
        ]

        async def collect() -> None:
            found: dict[int, dict[int, ChatOutcome]] = defaultdict(dict)
            async with aclosing(self._chat.complete(requests, on_progress=on_progress)) as outcomes:
                async for outcome in outcomes:
                    place, index = map(int, outcome.key.split())
                    found[place][index] = outcome
                    if len(found[place]) == n:
                        samples = found.pop(place)
                        on_result(place, _gathered(prompts[place].problem_id, [samples[i] for i in range(n)]))

        asyncio.run(collect())


def _gathered(problem_id: str, outcomes: Sequence[ChatOutcome]) -> Result:
    """Return the samples of one problem, or a failure if one of its requests failed."""
    outputs: list[SampleOutput] = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            too_long = "maximum context length" in outcome.reason or "context_length" in outcome.reason
            reason = Reason.PROMPT_TOO_LONG if too_long else outcome.code
            return SampleFailure(problem_id=problem_id, reason=reason, detail=outcome.reason)
        total = math.nan if outcome.logprob_sum is None else outcome.logprob_sum
        outputs.append(
            SampleOutput(
                text=outcome.text,
                token_count=outcome.logprob_count,
                logprob_sum=total,
                finish_reason=outcome.finish_reason,
                spans=outcome.spans or TokenSpans(),
            )
        )
    return outputs
