"""A misbehaving server over real HTTP: every request gets exactly one outcome; memory and time stay bounded."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.config import ModelRole, Sampling
from tasks.llm import chat, endpoint
from tasks.llm.chat import MAX_ATTEMPTS, ChatModel, ChatOutcome, ChatRequest, Completion, Failure
from tasks.llm.ledger import Ledger
from tests.scripted_server import ScriptedServer, running


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts to milliseconds."""
    monkeypatch.setattr(chat, "pause_before", lambda _attempt, _retry_after=None: 0.002)


def model_at(server: ScriptedServer, ledger: Ledger | None = None, **settings: Any) -> ChatModel:
    role = ModelRole.model_validate({"model": "scripted", "base_url": server.base_url} | settings)
    return ChatModel(role, server.base_url, "scripted", "scripted@1", ledger)


def requests(contents: list[str]) -> Iterator[ChatRequest]:
    for content in contents:
        messages = [{"role": "user", "content": content}]
        yield ChatRequest(key=content, messages=messages, sampling=Sampling(max_tokens=9), prompt="p1")


WRONG_SHAPES = (
    "null",
    "[1]",
    '"text"',
    "{}",
    '{"choices": "abc"}',
    '{"choices": [5]}',
    '{"choices": [{"message": {"content": 7}}]}',
    '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}',
    '{"choices": [{"message": {"content": "x"}, "logprobs": 3}]}',
    "[" * 100_000,
)
PASSING = (
    "429", "429:0", "429:never", "500", "502", "503", "408", "reset", "cut", "truncated", "malformed", "garbage", "no_choices",
    *(f"json:{shape}" for shape in WRONG_SHAPES),
)  # fmt: skip
REFUSED = ("400", "404", "413", "422")
ANSWERED = ("ok", "ok", "ok", "trickle", "empty", "length", "huge")


def scripts(rng: random.Random, count: int) -> dict[str, list[str]]:
    """Random behaviours per request. Fewer than eight requests use up their attempts, since eight in a row end a run."""
    script = {}
    for number in range(count):
        trouble = [rng.choice(PASSING) for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 5)))]
        script[f"q{number}"] = [*trouble, rng.choice(REFUSED if rng.random() < 0.1 else ANSWERED)]
    for number in rng.sample(range(count), 7):
        script[f"q{number}"] = [rng.choice(PASSING) for _ in range(MAX_ATTEMPTS)]
    return script


async def drive(model: ChatModel, contents: list[str]) -> tuple[list[ChatOutcome], int]:
    """Return the outcomes, and the most tasks alive when an outcome arrived (a new connection takes a second task)."""
    outcomes, alive = [], 0
    async with aclosing(model.complete(requests(contents))) as answers:
        async for outcome in answers:
            outcomes.append(outcome)
            alive = max(alive, len(asyncio.all_tasks()))
    return outcomes, alive


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize(("seed", "timeout_s"), [(0, 60.0), (1, 60.0), (2, 2.0)])
def test_every_request_gets_exactly_one_outcome_as_scripted_whatever_the_server_does(
    seed: int, timeout_s: float
) -> None:
    script = scripts(random.Random(seed), 200)
    timed = timeout_s < 60.0  # on a busy machine any attempt may then time out
    if timed:
        script |= {"drip": ["slow", "ok"], "mute": ["silent", "500", "ok"]}
    with running(script, delay_s=0.001) as server:
        model = model_at(server, concurrency=24, request_timeout_s=timeout_s)
        outcomes, alive = asyncio.run(drive(model, list(script)))
    assert sorted(outcome.key for outcome in outcomes) == sorted(script)
    for outcome in outcomes:
        behaviours = script[outcome.key]
        if behaviours[-1] in ANSWERED:
            assert isinstance(outcome, Completion), outcome
            assert behaviours[-1] not in ("ok", "trickle") or outcome.text == f"echo {outcome.key}"
        else:
            assert isinstance(outcome, Failure) and outcome.reason
            assert outcome.attempts == server.counts[outcome.key]
        sent = server.counts[outcome.key]
        assert sent == len(behaviours) or (timed and len(behaviours) < sent <= MAX_ATTEMPTS), behaviours
    assert alive <= 2 * 24 + 3 and server.most_at_once <= 24 and model.servers[0].throttle.active == 0
    failed = sum(isinstance(outcome, Failure) for outcome in outcomes)
    assert (model.usage.failures, model.usage.completions) == (failed, len(script) - failed)
    assert model.usage.attempts == server.counts.total()


@pytest.mark.usefixtures("short_pauses")
def test_tasks_and_read_ahead_do_not_grow_with_the_number_of_requests() -> None:
    pulled = 0

    def counted() -> Iterator[ChatRequest]:
        nonlocal pulled
        for request in requests([f"q{number}" for number in range(900)]):
            pulled += 1
            yield request

    async def drive_counted() -> tuple[int, int]:
        answered = ahead = alive = 0
        async with aclosing(model.complete(counted())) as answers:
            async for _ in answers:
                answered += 1
                ahead = max(ahead, pulled - answered)
                alive = max(alive, len(asyncio.all_tasks()))
        return ahead, alive

    with running() as server:
        model = model_at(server, concurrency=8)
        ahead, alive = asyncio.run(drive_counted())
    assert pulled == 900 and ahead <= chat.LOOKUP + 8 and alive <= 2 * 8 + 3


@pytest.mark.usefixtures("short_pauses")
def test_concurrency_adapts_to_the_capacity_of_the_server() -> None:
    limits: list[float] = []
    with running(delay_s=0.01, capacity=12) as server:
        model = model_at(server, concurrency=64)
        cut = model.servers[0].throttle.congested
        model.servers[0].throttle.congested = lambda sent_at: (
            limits.append(model.servers[0].throttle.limit),
            cut(sent_at),
        )[1]  # type: ignore[method-assign]
        outcomes, _ = asyncio.run(drive(model, [f"q{number}" for number in range(600)]))
    assert all(isinstance(outcome, Completion) for outcome in outcomes)
    assert server.turned_away < 300, "most requests must fit the capacity"
    peaks = [limit for limit in limits if limit >= 12]
    assert len(peaks) >= 2, "the limit must fall and rise to the capacity again"


@pytest.mark.parametrize(
    ("output", "low", "high"),
    [
        ("7.5", 7.5, 7.5),
        (format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True), 80_000.0, 86_400.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0, 0.0),
        ("-3", 0.0, 0.0),
        ("inf", None, None),
        ("soon", None, None),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", None, None),
    ],
    ids=["seconds", "date", "past date", "negative", "infinite", "not a number", "invalid year"],
)
def test_retry_after_is_seconds_or_a_date(
    output: str, low: float | None, high: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []
    monkeypatch.setattr(chat, "pause_before", lambda _attempt, seconds=None: asked.append(seconds) or 0.0)
    with running({"a": [f"429:{output}", "ok"]}) as server:
        model_at(server).complete_all(requests(["a"]))
    (seconds,) = asked
    assert seconds is None if low is None or high is None else seconds is not None and low <= seconds <= high


def test_a_cancelled_run_ends_at_once_though_pauses_and_answers_are_outstanding() -> None:
    async def cancelled() -> float:
        task = asyncio.ensure_future(drive(model, list(script)))
        while server.counts.total() < len(script):
            await asyncio.sleep(0.01)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return time.monotonic() - started

    script = {"paused": ["429:300"], "silent": ["silent"], "drip": ["slow"]}
    with running(script) as server:
        model = model_at(server)
        assert asyncio.run(cancelled()) < 5.0
    assert model.servers[0].throttle.active == 0


def test_error_messages_of_a_server_are_valid_bounded_text() -> None:
    body = '{"error": {"message": "half a pair \\ud83d' + "x" * 5_000 + '"}}'
    with running({"a": ["400"]}) as server:
        server.refusal = body
        (outcome,) = model_at(server).complete_all(requests(["a"]))
    assert isinstance(outcome, Failure) and "half a pair ?" in outcome.reason
    assert len(outcome.reason.encode("utf-8")) < 600


@pytest.mark.usefixtures("short_pauses")
def test_a_second_run_sends_only_the_requests_that_failed(tmp_path: Path) -> None:
    script = scripts(random.Random(3), 120)
    failing = {content for content, behaviours in script.items() if behaviours[-1] not in ANSWERED}
    answered = len(script) - len(failing)
    for round_sends in (set(script), failing):
        with running(script) as server, Ledger(tmp_path / "ledger.sqlite") as ledger:
            outcomes, _ = asyncio.run(drive(model_at(server, ledger, concurrency=24), list(script)))
        assert {outcome.key for outcome in outcomes if isinstance(outcome, Failure)} == failing
        assert len(outcomes) == len(script) and set(server.counts) == round_sends
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert len(ledger) == answered == ledger.spent()["scripted@1"].requests


def test_requests_answered_before_a_cancellation_are_not_sent_again(tmp_path: Path) -> None:
    contents = [f"q{number}" for number in range(300)]

    async def until(enough: int) -> None:
        async with aclosing(model.complete(requests(contents))) as answers:
            async for _ in answers:
                enough -= 1
                if not enough:
                    return

    with running(delay_s=0.01) as server, Ledger(tmp_path / "ledger.sqlite") as ledger:
        model = model_at(server, ledger, concurrency=8)
        asyncio.run(until(100))
        paid = ledger.spent()["scripted@1"]
        outcomes, _ = asyncio.run(drive(model, contents))
    assert Counter(outcome.key for outcome in outcomes) == Counter(contents)
    repeated = [content for content, count in server.counts.items() if count > 1]
    assert 100 <= paid.requests < 300 and len(repeated) <= 8, "only requests in flight may be sent twice"
    assert sum(isinstance(outcome, Completion) and outcome.cached for outcome in outcomes) == paid.requests


def test_connections_closed_by_the_server_between_requests_lose_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        chat, "pause_before", lambda _attempt, _retry_after=None: 0.1
    )  # the client must notice the close
    contents = [f"q{number}" for number in range(100)]
    with running({content: ["hangup"] for content in contents}) as server:
        outcomes, _ = asyncio.run(drive(model_at(server, concurrency=4), contents))
    assert sorted(outcome.key for outcome in outcomes) == sorted(contents)
    assert all(isinstance(outcome, Completion) for outcome in outcomes)


@pytest.mark.usefixtures("short_pauses")
def test_an_endless_answer_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "MAX_ANSWER_BYTES", 50_000)
    with running({"a": ["huge"]}) as server:
        (outcome,) = model_at(server).complete_all(requests(["a"]))
    assert isinstance(outcome, Failure) and outcome.reason == "unreadable answer: longer than 50,000 bytes"


def test_an_error_that_is_not_json_is_reported_verbatim() -> None:
    with running({"a": ["400"]}) as server:
        server.refusal = "<html>too busy</html>"
        (outcome,) = model_at(server).complete_all(requests(["a"]))
    assert isinstance(outcome, Failure) and outcome.reason == "status 400: <html>too busy</html>"


def test_a_remote_server_is_reached_through_the_proxy_with_the_key_and_netrc_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine models.invalid login someone password else", encoding="ascii")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with running() as server:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, server.base_url.removesuffix("/v1"))
        role = ModelRole(model="scripted", base_url="http://models.invalid/v1", api_key_env="SOME_KEY")
        (outcome,) = ChatModel(role, "http://models.invalid/v1", "scripted", "id").complete_all(
            requests(["a"])
        )
    assert isinstance(outcome, Completion) and outcome.text == "echo a"
    assert server.headers[0].startswith("POST http://models.invalid/v1/chat/completions ")
    assert "authorization: bearer sk-secret" in server.headers[0].lower()
