"""Chat completions from OpenAI-compatible servers: adaptive concurrency, and exactly one outcome per request.

`tasks.llm.throttle` adapts the concurrency at each server: status 408, 409, 429 and 5xx, timeouts and broken connections count as
congestion. `tasks.llm.server_pool` chooses the server of each attempt. The pauses between attempts have full jitter.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

from openai import AsyncOpenAI

from tasks.config import PROJECT_ROOT, ModelRole, Sampling
from tasks.errors import UserError
from tasks.llm.callbacks import OnProgress
from tasks.llm.completions import MAX_REPLY_CHARS, Completion, from_ledger, from_reply, to_ledger
from tasks.llm.endpoint import BadStatus, ConnectionFailed, SharedClients, post, printable
from tasks.llm.ledger import Ledger, Spent, request_key
from tasks.llm.model_folder import special_tokens
from tasks.llm.offers import Offer, check_offer
from tasks.llm.server_pool import MAX_RETRY_AFTER_S, ModelServer, ServerPool
from tasks.rows import Reason
from tasks.text import control_token

MAX_ATTEMPTS: Final = 6
MAX_PAUSE_S: Final = 60.0
LOOKUP: Final = 256
"""Number of requests looked up in the ledger at once, and the most that are read ahead from the iterator."""
SERVER_GONE_AFTER: Final = 8
"""After this many requests in a row that used up all their attempts, the servers are considered down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One request. `key` is the caller's row id, `prompt` the fingerprint of the prompt that `messages` were rendered from.
    `extra`: further fields of the body, for servers that know them."""

    key: str
    messages: Sequence[Mapping[str, str]]
    sampling: Sampling
    prompt: str
    seed: int | None = None
    schema: Mapping[str, Any] | None = None
    schema_name: str = "reply"
    logprobs: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request that failed for good, with the server's error message, or that was not sent because its text contains a
    control token (`code`)."""

    key: str
    reason: str
    attempts: int
    code: Reason = Reason.MODEL_ERROR


ChatOutcome = Completion | Failure


@dataclass(slots=True, kw_only=True)
class Usage:
    """Usage of a `ChatModel` since its creation. Ledger hits cost nothing and count as `cached` only."""

    attempts: int = 0
    completions: int = 0
    failures: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Pending:
    """A request to be sent, with its index in the input and its ledger key."""

    index: int
    request: ChatRequest
    ledger_key: str


Clients = Mapping[str, AsyncOpenAI]


class ChatModel:
    """A role's model behind one or several OpenAI-compatible addresses, which all serve the same model.

    `identity` identifies the model in the ledger, whichever server answers. `offer`: how the servers serve the model (default:
    vLLM if the role is served on this machine); a vLLM server is sent the `enable_thinking` argument of the chat template. A
    request whose text contains a control token of a common chat template, or a special token of a model served here, is not sent.
    Not thread-safe.
    """

    def __init__(
        self,
        role: ModelRole,
        base_urls: str | Sequence[str],
        model_name: str,
        identity: str,
        ledger: Ledger | None = None,
        *,
        offer: Offer | None = None,
        max_reply_chars: int = MAX_REPLY_CHARS,
    ) -> None:
        self.role = role
        self.model_name = model_name
        self.identity = identity
        self.usage = Usage()
        self._ledger = ledger
        addresses = [base_urls] if isinstance(base_urls, str) else base_urls
        self._pool = ServerPool(addresses, role.concurrency)
        self._clients = SharedClients(role, addresses)
        self._offer = offer or Offer(is_vllm=role.serve is not None, context=None)
        self._max_reply_chars = max_reply_chars
        self._control_tokens = special_tokens(role.model, PROJECT_ROOT) if role.serve else ()
        self._given_up_in_a_row = 0

    @property
    def servers(self) -> tuple[ModelServer, ...]:
        """The servers, in the order of the addresses."""
        return self._pool.servers

    async def complete(
        self, requests: Iterable[ChatRequest], *, on_progress: OnProgress | None = None
    ) -> AsyncGenerator[ChatOutcome]:
        """Yield exactly one outcome per request, in order of completion; requests found in the ledger are not sent, nor are those
        whose text contains a control token.

        Requests are pulled from the iterator as slots become free. Raises `UserError` if a server rejects the API key or
        redirects, or all are down (eight requests in a row used up their attempts). Closing the iterator cancels what is in
        flight.
        """
        async with (
            self._clients.open() as clients,
            aclosing(self._run(clients, requests, on_progress, lambda: None)) as outcomes,
        ):
            async for _, outcome in outcomes:
                yield outcome

    async def outcomes(
        self,
        requests: Iterable[ChatRequest],
        *,
        on_progress: OnProgress | None = None,
        on_sent: Callable[[], None] = lambda: None,
    ) -> list[ChatOutcome]:
        """Like `complete`, but return all outcomes, in the order of the requests. `on_sent` is called once no request is
        waiting for a slot: another batch may then start on the same event loop."""
        async with self._clients.open() as clients:
            numbered = [pair async for pair in self._run(clients, requests, on_progress, on_sent)]
        return [outcome for _, outcome in sorted(numbered, key=lambda pair: pair[0])]

    def complete_all(
        self, requests: Iterable[ChatRequest], *, on_progress: OnProgress | None = None
    ) -> list[ChatOutcome]:
        """Like `outcomes`, for callers without an event loop."""
        return asyncio.run(self.outcomes(requests, on_progress=on_progress))

    async def _run(
        self, clients: Clients, requests: Iterable[ChatRequest], on_progress: OnProgress | None,
        on_sent: Callable[[], None],
    ) -> AsyncGenerator[tuple[int, ChatOutcome]]:  # fmt: skip
        meter = _Meter(on_progress, len(requests) if isinstance(requests, Sized) else None)
        source = enumerate(requests)
        ready: deque[_Pending] = deque()
        running: dict[asyncio.Task[ChatOutcome], _Pending] = {}
        finished: asyncio.Queue[asyncio.Task[ChatOutcome]] = asyncio.Queue()
        followers: dict[str, list[_Pending]] = {}  # requests with the same content as one in flight
        try:
            while True:
                while len(running) < self._pool.cap:
                    if not ready:
                        for index, outcome in self._read_ahead(source, ready):
                            meter.count()
                            yield index, outcome
                    if not ready:
                        on_sent()
                        break
                    pending = ready.popleft()
                    if pending.ledger_key in followers:
                        followers[pending.ledger_key].append(pending)
                        continue
                    followers[pending.ledger_key] = []
                    task = asyncio.create_task(self._answer(clients, pending))
                    task.add_done_callback(finished.put_nowait)
                    running[task] = pending
                if not running:
                    break
                task = await finished.get()
                pending = running.pop(task)
                for item, outcome in self._deliver(pending, followers.pop(pending.ledger_key), task.result()):
                    meter.count()
                    yield item, outcome
        finally:
            await _cancel(running)
            meter.finish()

    def _read_ahead(
        self, source: Iterator[tuple[int, ChatRequest]], ready: deque[_Pending]
    ) -> Iterator[tuple[int, ChatOutcome]]:
        """Pull up to `LOOKUP` requests at a time, until `ready` is not empty or the source is exhausted. Yields the outcomes of
        those found in the ledger or never sent; the others are added to `ready`."""
        while not ready:
            pulled = list(islice(source, LOOKUP))
            if not pulled:
                return
            unsafe = {index: token for index, request in pulled if (token := self._control_token(request))}
            for index, request in pulled:
                if index in unsafe:
                    self.usage.failures += 1
                    yield index, _not_sent(request.key, unsafe[index])
            chunk = [
                _Pending(index, request, self._ledger_key(request))
                for index, request in pulled
                if index not in unsafe
            ]
            known = self._known(chunk)
            ready.extend(item for item in chunk if item.index not in known)
            for index, completion in known.items():
                self.usage.cached += 1
                yield index, completion

    def _known(self, items: Sequence[_Pending]) -> dict[int, Completion]:
        """Return the outcomes of requests that are in the ledger, by index. Entries that cannot be used are removed from it."""
        if self._ledger is None:
            return {}
        found = self._ledger.get_many([item.ledger_key for item in items])
        known, unusable = {}, set()
        for item in items:
            if item.ledger_key in found:
                request = item.request
                completion = from_ledger(request.key, found[item.ledger_key], logprobs=request.logprobs)
                if completion is None:
                    unusable.add(item.ledger_key)
                else:
                    known[item.index] = completion
        self._ledger.discard(unusable)
        return known

    def _control_token(self, request: ChatRequest) -> str | None:
        """Return the first token in the messages that the server's chat template would take for its own, or None."""
        for message in request.messages:
            if found := control_token(message["content"]):
                return found
            if found := next((token for token in self._control_tokens if token in message["content"]), None):
                return found
        return None

    def _deliver(
        self, leader: _Pending, followers: Sequence[_Pending], outcome: ChatOutcome
    ) -> Iterator[tuple[int, ChatOutcome]]:
        """Yield the outcome for the request that was sent and for those with the same content that waited for it."""
        yield leader.index, outcome
        for item in followers:
            if isinstance(outcome, Completion):
                self.usage.cached += 1
                yield item.index, replace(outcome, key=item.request.key, cached=True)
            else:
                self.usage.failures += 1
                yield item.index, replace(outcome, key=item.request.key)

    async def _answer(self, clients: Clients, pending: _Pending) -> ChatOutcome:
        """Send one request until it is answered, rejected by the servers that are up, or out of attempts."""
        request, reason = pending.request, ""
        last, refused = None, list[ModelServer]()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            await self._pool.look_again(lambda server: self._check(clients[server.base_url], server))
            server = await self._pool.enter(last, refused)
            if server is None:
                return self._failed(request, reason, attempt - 1)
            try:
                completion = await self._attempt(clients[server.base_url], server, request)
            except _Refused as refusal:
                reason = str(refusal)
                refused.append(server)
                self._given_up_in_a_row = 0
            except _Retryable as trouble:
                reason, last = str(trouble), server
                if attempt < MAX_ATTEMPTS:
                    wait = None if self._pool.has_another(server) else trouble.retry_after
                    await asyncio.sleep(pause_before(attempt + 1, wait))
            else:
                self._given_up_in_a_row = 0
                self._record(pending.ledger_key, completion)
                return completion
        if not refused:
            self._give_up(reason)
        return self._failed(request, reason, MAX_ATTEMPTS)

    def _give_up(self, reason: str) -> None:
        """Count a request that used up its attempts. Raises `UserError` if these are too many in a row."""
        self._given_up_in_a_row += 1
        if self._given_up_in_a_row < SERVER_GONE_AFTER:
            return
        several = len(self.servers) > 1
        raise UserError(
            f"model server{'s' * several} {', '.join(server.base_url for server in self.servers)} failed {SERVER_GONE_AFTER}"
            f" requests in a row, {MAX_ATTEMPTS} attempts each (last error: {reason}): check that"
            f" {'they run and read their logs' if several else 'it runs and read its log'}, then start again (answered requests"
            " are kept)"
        )

    async def _check(self, client: AsyncOpenAI, server: ModelServer) -> None:
        """Raise `UserError` unless a server offers the model as the others do."""
        await check_offer(client, server.base_url, self.role, self._offer)

    async def _attempt(self, client: AsyncOpenAI, server: ModelServer, request: ChatRequest) -> Completion:
        """Make one attempt in a slot of the server, and release the slot. Raises `_Retryable` or `_Refused` with a message, or
        `UserError` if the server rejects the API key or redirects."""
        sent_at = time.monotonic()
        self.usage.attempts += 1
        try:
            answer = await post(
                client,
                "/chat/completions",
                self._arguments(request),
                self.role.request_timeout_s,
                request.sampling.max_tokens,
            )
            completion = self._read(request, answer)
        except (BadStatus, ConnectionFailed, TimeoutError, ValueError) as error:
            found = self._sorted_error(error, server, sent_at)
            if isinstance(found, _Retryable):
                self._pool.failed(server, sent_at, str(found), found.retry_after)
            raise found from error
        finally:
            self._pool.leave(server)
        self._pool.succeeded(server)
        return completion

    def _sorted_error(self, error: Exception, server: ModelServer, sent_at: float) -> Exception:
        """Return the exception to raise for an attempt's error, and report congestion to the server's throttle."""
        if isinstance(error, BadStatus):
            if error.status == 401:
                return UserError(
                    f"model server {server.base_url} rejects the API key: set {self.role.api_key_env} in the environment"
                )
            if error.is_redirect:
                return UserError(
                    f"model server {server.base_url} sends prompts elsewhere ({error}): set `base_url` to the right address"
                )
            if error.status < 500 and error.status not in (408, 409, 429):
                return _Refused(str(error))
            server.throttle.congested(sent_at)
            return _Retryable(str(error), error.retry_after)
        if isinstance(error, TimeoutError):
            server.throttle.congested(sent_at)
            return _Retryable(f"no answer within {self.role.request_timeout_s:g} s")
        if isinstance(error, ConnectionFailed):
            server.throttle.congested(sent_at)
            return _Retryable(f"connection failed: {error}")
        return _Retryable(f"unreadable answer: {printable(error)}")

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self.model_name,
            "messages": [dict(message) for message in request.messages],
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "max_tokens": request.sampling.max_tokens,
        }
        if request.seed is not None:
            arguments["seed"] = request.seed
        if request.logprobs:
            arguments["logprobs"] = True
        if request.schema is not None:
            schema = {"name": request.schema_name, "schema": dict(request.schema), "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        if self._offer.is_vllm:
            arguments["chat_template_kwargs"] = {"enable_thinking": self.role.thinking}
        return {**arguments, **request.extra}

    def _read(self, request: ChatRequest, answer: bytes) -> Completion:
        """Parse an answer. Raises `ValueError` if it is not a chat completion."""
        try:
            return from_reply(
                request.key,
                json.loads(answer),
                logprobs=request.logprobs,
                max_tokens=request.sampling.max_tokens,
                max_chars=self._max_reply_chars,
            )
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    def _ledger_key(self, request: ChatRequest) -> str:
        """Return the hash of everything that determines the reply; the address and the concurrency are not part of it."""
        settings = request.sampling.model_dump() | {
            "thinking": self.role.thinking,
            "dtype": self.role.dtype,
            "max_model_len": self.role.max_model_len,
            "logprobs": "with spans" if request.logprobs else False,
            **request.extra,
        }
        schema = None if request.schema is None else dict(request.schema)
        messages = [dict(message) for message in request.messages]
        return request_key(self.identity, messages, settings, schema, request.prompt, request.seed)

    def _record(self, ledger_key: str, completion: Completion) -> None:
        self.usage.completions += 1
        self.usage.prompt_tokens += completion.prompt_tokens
        self.usage.completion_tokens += completion.completion_tokens
        if self._ledger is not None:
            spent = Spent(
                requests=1,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            )
            self._ledger.put(ledger_key, to_ledger(completion), model=self.identity, spent=spent)

    def _failed(self, request: ChatRequest, reason: str, attempts: int) -> Failure:
        self.usage.failures += 1
        return Failure(key=request.key, reason=reason, attempts=attempts)


class _Refused(Exception):
    """The server rejects this request for good."""


class _Retryable(Exception):
    """A temporary error. `retry_after`: the pause in seconds that the server requested."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _Meter:
    """Reports (done, total), at most once a second. If the total is unknown, total = done."""

    def __init__(self, on_progress: OnProgress | None, total: int | None) -> None:
        self._on_progress = on_progress
        self._total = total
        self._done = 0
        self._shown_at = time.monotonic()

    def count(self) -> None:
        self._done += 1
        if time.monotonic() - self._shown_at >= 1.0:
            self.finish()

    def finish(self) -> None:
        if self._on_progress is not None:
            self._shown_at = time.monotonic()
            self._on_progress(self._done, self._done if self._total is None else self._total)


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _not_sent(key: str, token: str) -> Failure:
    reason = f"not sent, because the text contains {token!r}, a token of chat templates"
    return Failure(key=key, reason=reason, attempts=0, code=Reason.CONTROL_TOKEN)


def pause_before(attempt: int, retry_after: float | None = None) -> float:
    """Return the seconds to wait before `attempt` (2, 3, ...): uniform on [0, 0.5 * 2**(attempt - 1)], capped at one minute,
    but at least `retry_after` (capped at five minutes)."""
    jittered = random.uniform(0.0, min(MAX_PAUSE_S, 0.5 * 2 ** (attempt - 1)))
    return max(jittered, min(retry_after or 0.0, MAX_RETRY_AFTER_S))
