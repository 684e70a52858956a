"""The teacher's N samples with their log-probabilities: from engines of our own, or from a remote endpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tasks.core.answers import extract_answer
from tasks.core.config import ModelRole, Sampling
from tasks.core.errors import UserError
from tasks.core.rows import Reason, Response
from tasks.io.chat import ChatModel, ChatRequest, Failure, Outcome, Progress
from tasks.io.engines import Draw, Engines, LogprobsMode, Result, SampleFailure, SamplePrompt
from tasks.io.ledger import Ledger
from tasks.io.servers import OnWait, check_endpoint

__all__ = ["SampleFailure", "SamplePrompt", "TeacherSampler"]


class TeacherSampler:
    """Samples a role's model for the length of a `with` block; engines start once, at its beginning.

    `root` is the project's folder, `identity` the model's identity, stored with every row. `logprobs="tempered"` sums the
    log-probabilities after temperature and truncation instead of the model's own. A remote teacher (`role.base_url`)
    gives the same rows through `ChatModel`, which keeps its answers in `ledger`; it knows raw log-probabilities only.

    Entering raises `UserError` when the model is missing, the endpoint silent, or an engine does not start in
    `serve.health_timeout_s`. When the block ends, by whatever cause, the engines end with it (and Ray, if started here).
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
        on_progress: Progress | None = None,
    ) -> list[Response | SampleFailure]:
        """`n` responses, or one failure, for each prompt, in the order of the prompts.

        `on_progress(done, total)` counts samples, at most once a second. A problem of which any sample has an invalid
        log-probability (NaN, infinite, positive, or none at all) fails as a whole. Raises `UserError` for n > 1 at
        temperature 0 and when an engine or the endpoint dies.
        """
        if self._backend is None:
            raise RuntimeError("TeacherSampler.sample works inside its `with` block only")
        if n > 1 and sampling.temperature == 0.0:
            raise UserError(
                f"{n} samples at temperature 0 are all the same: set sample.sampling.temperature above 0"
            )
        results = self._backend.draw(prompts, n, sampling, prompt_fingerprint, on_progress)
        return [
            row
            for prompt, result in zip(prompts, results, strict=True)
            for row in self._rows(prompt, result, prompt_fingerprint)
        ]

    def _rows(self, prompt: SamplePrompt, result: Result, fingerprint: str) -> list[Response | SampleFailure]:
        if isinstance(result, SampleFailure):
            return [result]
        for index, draw in enumerate(result):
            if not (math.isfinite(draw.logprob_sum) and draw.logprob_sum <= 0.0 and draw.token_count > 0):
                detail = f"sample {index}: log-probability {draw.logprob_sum} over {draw.token_count} tokens"
                return [
                    SampleFailure(problem_id=prompt.problem_id, reason=Reason.INVALID_LOGPROB, detail=detail)
                ]
        return [
            Response(
                problem_id=prompt.problem_id,
                index=index,
                text=draw.text,
                token_count=draw.token_count,
                logprob_sum=draw.logprob_sum,
                finish_reason=draw.finish_reason,
                answer=extract_answer(draw.text),
                model=self.identity,
                prompt=fingerprint,
                seed=prompt.seed + index,
            )
            for index, draw in enumerate(result)
        ]


# --- a remote teacher --------------------------------------------------------------------------------------------


class _Remote:
    """One request per sample, seeded as the engine would seed it."""

    def __init__(self, role: ModelRole, identity: str, ledger: Ledger | None) -> None:
        handle = check_endpoint(role)
        self._chat = ChatModel(
            role, handle.base_url, handle.model_name, identity, ledger, is_vllm=handle.is_vllm
        )

    def draw(
        self,
        prompts: Sequence[SamplePrompt],
        n: int,
        sampling: Sampling,
        fingerprint: str,
        on_progress: Progress | None,
    ) -> list[Result]:
        requests = [
            ChatRequest(
                key=prompt.problem_id,
                messages=prompt.messages,
                sampling=sampling,
                prompt=fingerprint,
                seed=prompt.seed + index,
                logprobs=True,
            )
            for prompt in prompts
            for index in range(n)
        ]
        outcomes = self._chat.complete_all(requests, on_progress=on_progress)
        return [_gathered(outcomes[start : start + n]) for start in range(0, len(outcomes), n)]


def _gathered(outcomes: Sequence[Outcome]) -> Result:
    """The samples of one problem; the first failure among them fails the problem."""
    draws: list[Draw] = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            too_long = "maximum context length" in outcome.reason or "context_length" in outcome.reason
            reason = Reason.PROMPT_TOO_LONG if too_long else Reason.MODEL_ERROR
            return SampleFailure(problem_id=outcome.key, reason=reason, detail=outcome.reason)
        total = math.nan if outcome.logprob_sum is None else outcome.logprob_sum
        draws.append(
            Draw(
                text=outcome.text,
                token_count=outcome.logprob_count,
                logprob_sum=total,
                finish_reason=outcome.finish_reason,
            )
        )
    return draws
