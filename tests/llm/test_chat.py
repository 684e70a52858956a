"""Every request gets exactly one outcome; the limit adapts to congestion; the ledger saves requests."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tasks.config import ModelRole, Sampling
from tasks.errors import UserError
from tasks.llm import chat
from tasks.llm.chat import ChatModel, ChatRequest, Completion, Failure, pause_before
from tasks.llm.ledger import Ledger, Spent
from tasks.llm.offers import Offer
from tasks.llm.throttle import Throttle
from tests.scripted_server import LOGPROBS, ScriptedServer, running


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses to milliseconds, except those of Retry-After."""
    monkeypatch.setattr(chat, "pause_before", lambda _attempt, retry_after=None: retry_after or 0.002)


def model_at(server: ScriptedServer, ledger: Ledger | None = None, **settings: Any) -> ChatModel:
    role = ModelRole.model_validate(
        {"model": "scripted", "base_url": server.base_url, "request_timeout_s": 60.0} | settings
    )
    return ChatModel(role, server.base_url, "scripted", "scripted@1", ledger)


def request(content: str, key: str = "", **settings: Any) -> ChatRequest:
    messages = [{"role": "user", "content": content}]
    return ChatRequest(
        key=key or content, messages=messages, sampling=Sampling(max_tokens=9), prompt="p1", **settings
    )


def test_a_reply_becomes_a_completion_with_its_tokens_counted() -> None:
    with running() as server:
        model = model_at(server)
        (outcome,) = model.complete_all([request("hello")])
    assert outcome == Completion(
        key="hello", text="echo hello", finish_reason="stop", prompt_tokens=7, completion_tokens=3
    )
    assert (model.usage.prompt_tokens, model.usage.completion_tokens, model.usage.attempts) == (7, 3, 1)


RECOVERED = {
    "429 once": ["429", "ok"],
    "429 with a pause": ["429:0.1", "ok"],
    "500 twice": ["500", "500", "ok"],
    "503": ["503", "ok"],
    "reset": ["reset", "ok"],
    "truncated": ["truncated", "ok"],
    "malformed": ["malformed", "ok"],
    "no choices": ["no_choices", "ok"],
    "slow drip": ["slow", "ok"],
    "silent": ["silent", "ok"],
    "fine": ["ok"],
}


def test_temporary_errors_are_retried_until_every_request_is_answered_once() -> None:
    with running(RECOVERED) as server:
        outcomes = model_at(server, request_timeout_s=2.0).complete_all(
            [request(content) for content in RECOVERED]
        )
    assert [(outcome.key, getattr(outcome, "text", outcome)) for outcome in outcomes] == [
        (content, f"echo {content}") for content in RECOVERED
    ]
    timed = {"slow drip", "silent"}  # on a busy machine the second attempt may time out too
    assert all(server.counts[content] == len(RECOVERED[content]) for content in RECOVERED.keys() - timed)
    assert all(server.counts[content] >= 2 for content in timed)


@pytest.mark.parametrize(
    ("behaviour", "attempts", "sentence"),
    [
        ("400", 1, "scripted 400"),
        ("404", 1, "scripted 404"),
        ("422", 1, "scripted 422"),
        ("409", 6, "scripted 409"),
        ("429", 6, "scripted 429"),
        ("500", 6, "scripted 500"),
        ("reset", 6, "connection failed"),
        ("truncated", 6, "connection failed"),
        ("malformed", 6, "unreadable answer"),
        ("slow", 6, "no answer within 0.3 s"),
    ],
)
def test_a_permanent_error_is_a_failure_with_the_servers_message(
    behaviour: str, attempts: int, sentence: str
) -> None:
    with running({"bad": [behaviour]}) as server:
        model = model_at(server, request_timeout_s=0.3 if behaviour == "slow" else 60.0)
        (outcome,) = model.complete_all([request("bad")])
    assert isinstance(outcome, Failure) and outcome.attempts == server.counts["bad"] == attempts
    assert sentence in outcome.reason
    assert model.usage.failures == 1


def test_one_bad_request_does_not_affect_the_others() -> None:
    with running({"bad": ["malformed"], "worse": ["400"]}) as server:
        outcomes = model_at(server).complete_all([request(text) for text in ("a", "bad", "b", "worse", "c")])
    assert [isinstance(outcome, Completion) for outcome in outcomes] == [True, False, True, False, True]


def test_unusual_replies_are_completions_with_a_matching_finish_reason() -> None:
    with running({"e": ["empty"], "h": ["huge"], "l": ["length"]}) as server:
        empty, huge, length = model_at(server).complete_all([request("e"), request("h"), request("l")])
    assert isinstance(empty, Completion) and (empty.text, empty.finish_reason) == ("", "stop")
    assert isinstance(huge, Completion) and (len(huge.text), huge.finish_reason) == (100_000, "too_long")
    assert isinstance(length, Completion) and length.finish_reason == "length"


def test_retry_after_is_honoured() -> None:
    with running({"a": ["429:0.5", "ok"]}) as server:
        started = time.monotonic()
        model_at(server).complete_all([request("a")])
    assert time.monotonic() - started >= 0.5


def test_pauses_have_full_jitter_and_grow_and_are_never_shorter_than_retry_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[float, float]] = []
    monkeypatch.setattr(chat.random, "uniform", lambda low, high: drawn.append((low, high)) or high)
    assert [pause_before(attempt) for attempt in (2, 3, 4)] == [1.0, 2.0, 4.0]
    assert drawn == [(0.0, 1.0), (0.0, 2.0), (0.0, 4.0)]
    assert pause_before(2, 30.0) == 30.0
    assert pause_before(2, 1e9) == 300.0
    assert pause_before(20) == 60.0


def test_requests_in_the_ledger_are_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "LOOKUP", 16)
    requests = [request(f"q{i}", seed=i) for i in range(50)]
    with running({"q7": ["400"]}) as server:
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            first = model_at(server, ledger).complete_all(requests)
        sent = server.counts.total()
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            again = model_at(server, ledger)
            second = again.complete_all(requests)
        assert sent == 50
        assert server.counts.total() == 51, "only the failed request may be sent again"
    for old, new in zip(first, second, strict=True):
        if isinstance(old, Completion) and isinstance(new, Completion):
            assert new.cached and not old.cached and (new.key, new.text) == (old.key, old.text)
        else:
            assert old == new
    assert (again.usage.cached, again.usage.prompt_tokens) == (49, 0)


def test_the_cost_is_restored_after_a_restart(tmp_path: Path) -> None:
    with running({"q1": ["malformed", "ok"], "q2": ["400"]}) as server:
        for _ in range(2):  # the second time the ledger answers, at no cost
            with Ledger(tmp_path / "ledger.sqlite") as ledger:
                model_at(server, ledger).complete_all([request(f"q{i}") for i in range(10)])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.spent() == {"scripted@1": Spent(requests=9, prompt_tokens=63, completion_tokens=27)}


def test_everything_that_changes_the_reply_changes_the_ledger_key(tmp_path: Path) -> None:
    with running() as server, Ledger(tmp_path / "ledger.sqlite") as ledger:
        model_at(server, ledger).complete_all([request("a", seed=1)])
        variants = [
            request("a", seed=2),
            request("a", seed=1, schema={"type": "object"}),
            request("a", logprobs=True),
        ]
        model_at(server, ledger).complete_all(variants)
        model_at(server, ledger, thinking=True).complete_all([request("a", seed=1)])
        assert server.counts["a"] == 5
        model_at(server, ledger, concurrency=3).complete_all([request("a", key="other row", seed=1)])
        assert server.counts["a"] == 5


def test_equal_requests_at_the_same_time_are_sent_once() -> None:
    with running({"bad": ["400"]}, delay_s=0.02) as server:
        model = model_at(server)
        outcomes = model.complete_all(
            [request(text, key=f"{text}{i}") for text in ("same", "bad") for i in range(5)]
        )
    assert server.counts == {"same": 1, "bad": 1}
    assert [outcome.key for outcome in outcomes] == [
        f"{text}{i}" for text in ("same", "bad") for i in range(5)
    ]
    assert all(isinstance(outcome, Completion) for outcome in outcomes[:5])
    assert all(isinstance(outcome, Failure) for outcome in outcomes[5:])
    assert model.usage.prompt_tokens == 7


def test_concurrency_rises_to_the_cap_and_never_exceeds_it() -> None:
    with running(delay_s=0.2) as server:
        model = model_at(server, concurrency=12)
        outcomes = model.complete_all([request(f"q{i}") for i in range(44)])
    assert len(outcomes) == 44
    assert model.servers[0].throttle.limit == 12.0
    assert 1 < server.most_at_once <= 12


def test_a_concurrency_of_one_works() -> None:
    with running(delay_s=0.001) as server:
        model_at(server, concurrency=1).complete_all([request(f"q{i}") for i in range(20)])
    assert server.most_at_once == 1


def test_a_429_halves_the_limit_and_retries_wait_for_a_slot() -> None:
    with running({f"q{i}": ["429", "ok"] for i in range(40)}, delay_s=0.01) as server:
        model = model_at(server, concurrency=40)
        limits: list[float] = []
        halve: Callable[[float], None] = model.servers[0].throttle.congested
        model.servers[0].throttle.congested = lambda sent_at: (
            halve(sent_at),
            limits.append(model.servers[0].throttle.limit),
        )[0]  # type: ignore[method-assign]
        outcomes = model.complete_all([request(f"q{i}") for i in range(40)])
    assert all(isinstance(outcome, Completion) for outcome in outcomes)
    assert limits[0] == 4.0, "halved from the first eight"
    assert server.most_at_once <= 12, "near the limit, although forty requests wait for a retry"


def test_the_throttle_doubles_then_halves_once_per_round_trip_then_adds_one_per_round() -> None:
    throttle = Throttle(64)
    for _ in range(8):
        throttle.succeeded()
    assert throttle.limit == 16.0
    sent = time.monotonic()
    throttle.congested(sent)
    throttle.congested(sent)  # sent before the first cut: the same congestion
    assert throttle.limit == 8.0
    for _ in range(8):
        throttle.succeeded()
    assert 8.9 < throttle.limit < 9.1
    for _ in range(10_000):
        throttle.succeeded()
    assert throttle.limit == 64.0
    for _ in range(20):
        throttle.congested(time.monotonic())
    assert throttle.limit == 1.0


@pytest.mark.parametrize(("cap", "first"), [(1, 1), (8, 8), (64, 8), (256, 32), (512, 64)])
def test_the_first_limit_is_an_eighth_of_the_cap_and_three_successful_rounds_reach_the_cap(
    cap: int, first: int
) -> None:
    throttle = Throttle(cap)
    assert throttle.limit == first
    for _ in range(3):
        for _ in range(int(throttle.limit)):
            throttle.succeeded()
    assert throttle.limit == cap


def test_a_server_that_is_down_stops_the_run_with_a_user_error() -> None:
    with running() as server:
        model = model_at(server, concurrency=16)
    with pytest.raises(UserError, match=r"failed 8 requests in a row, 6 attempts each .*check that it runs"):
        model.complete_all([request(f"q{i}") for i in range(1000)])
    assert model.usage.attempts <= 6 * (16 + 8), "the other requests must not be sent"


def test_a_rejected_api_key_stops_the_run_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    with running({"a": ["401"]}) as server:
        model = model_at(server, api_key_env="SOME_KEY")
        with pytest.raises(UserError, match="set SOME_KEY in the environment") as caught:
            model.complete_all([request("a")])
    assert "authorization: bearer sk-very-secret" in server.headers[0].lower()
    assert "secret" not in str(caught.value) + repr(vars(model))


def test_the_request_carries_schema_seed_sampling_and_the_thinking_switch() -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    with running() as server:
        role = ModelRole(model="scripted", base_url=server.base_url)
        model = ChatModel(role, server.base_url, "scripted", "id", offer=Offer(is_vllm=True, context=None))
        model.complete_all([request("a", seed=11, schema=schema, schema_name="verdict")])
        model_at(server).complete_all([request("b")])
    first, second = server.bodies
    assert (first["seed"], first["temperature"], first["top_p"], first["max_tokens"]) == (11, 0.7, 1.0, 9)
    assert first["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "schema": schema, "strict": True},
    }
    assert first["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in second and "response_format" not in second and "seed" not in second


def test_log_probabilities_are_summed_over_the_returned_tokens() -> None:
    with running() as server:
        (outcome,) = model_at(server).complete_all([request("a", logprobs=True)])
    assert isinstance(outcome, Completion)
    assert (outcome.logprob_sum, outcome.logprob_count) == (sum(LOGPROBS), 3)


def test_requests_are_pulled_only_as_slots_become_free() -> None:
    pulled = 0

    def endless():
        nonlocal pulled
        while True:
            pulled += 1
            yield request(f"q{pulled}")

    async def take(count: int) -> int:
        async with aclosing(model.complete(endless())) as outcomes:
            return sum([1 async for _, _ in _zip(outcomes, range(count))])

    with running() as server:
        model = model_at(server)
        assert asyncio.run(take(5)) == 5
    assert pulled <= chat.LOOKUP
    assert server.counts.total() <= 5 + 2 * 64


async def _zip(outcomes: AsyncIterator[Any], numbers: range) -> AsyncIterator[tuple[int, Any]]:
    for number in numbers:
        yield number, await anext(outcomes)


def test_cancelling_leaves_nothing_in_flight() -> None:
    async def cancelled() -> int:
        task = asyncio.ensure_future(_collect(model, [request(f"q{i}") for i in range(50)]))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(asyncio.all_tasks()) - 1

    with running(delay_s=0.5) as server:
        model = model_at(server)
        assert asyncio.run(cancelled()) == 0
    assert model.servers[0].throttle.active == 0


async def _collect(model: ChatModel, requests: list[ChatRequest]) -> list[Any]:
    return [outcome async for outcome in model.complete(requests)]


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    with running() as server:
        model_at(server).complete_all(
            [request(f"q{i}") for i in range(30)], on_progress=lambda done, total: seen.append((done, total))
        )
    assert seen[-1] == (30, 30)
    assert len(seen) <= 3, "at most one report per second"


def test_a_lone_surrogate_does_not_reach_the_ledger(tmp_path: Path) -> None:
    text = json.loads('"a \\ud83d b"')
    with running({"a": [f"ok:{text}"]}) as server, Ledger(tmp_path / "ledger.sqlite") as ledger:
        (outcome,) = model_at(server, ledger).complete_all([request("a")])
    assert isinstance(outcome, Completion) and outcome.text == "a ? b"
