"""Several servers of a role: the same answers and ledger as from one, whatever the servers do; nothing is paid twice."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from tasks.config import ModelRole, Sampling, load_config
from tasks.errors import UserError
from tasks.llm import chat, server_pool
from tasks.llm.chat import MAX_ATTEMPTS, ChatModel, ChatOutcome, ChatRequest, Completion, Failure
from tasks.llm.ledger import Ledger
from tasks.llm.server_pool import FAILURES, ServerPool
from tasks.llm.servers import check_endpoint
from tasks.runtime.model_preflight import endpoint_problems
from tests.scripted_server import ScriptedServer, running

CONTENTS = [f"q{number}" for number in range(120)]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts, and the time for which a server is set aside."""
    monkeypatch.setattr(chat, "pause_before", lambda _attempt, retry_after=None: retry_after or 0.002)
    monkeypatch.setattr(server_pool, "FIRST_PAUSE_S", 0.05)


def role_at(*servers: ScriptedServer, **settings: Any) -> ModelRole:
    urls = [server.base_url for server in servers]
    return ModelRole.model_validate({"model": "scripted", "base_url": urls, "concurrency": 8} | settings)


def model_at(*servers: ScriptedServer, ledger: Ledger | None = None, **settings: Any) -> ChatModel:
    role = role_at(*servers, **settings)
    return ChatModel(role, role.base_urls, "scripted", "scripted@1", ledger)


def requests(contents: Sequence[str]) -> list[ChatRequest]:
    return [
        ChatRequest(
            key=content, messages=[{"role": "user", "content": content}], sampling=Sampling(max_tokens=9), prompt="p"
        )
        for content in contents
    ]  # fmt: skip


def ask(
    model: ChatModel, contents: Sequence[str], on_outcome: Callable[[int], None] = lambda _count: None
) -> dict[str, ChatOutcome]:
    """Return the outcomes by key; `on_outcome(count)` is called after each."""
    found: dict[str, ChatOutcome] = {}

    async def collect() -> None:
        async with aclosing(model.complete(requests(contents))) as outcomes:
            async for outcome in outcomes:
                assert outcome.key not in found
                found[outcome.key] = outcome
                on_outcome(len(found))

    asyncio.run(collect())
    return found


def entries(path: Path) -> list[tuple[Any, ...]]:
    """The bytes of all answers in a ledger, and what they cost by model."""
    with sqlite3.connect(path) as database:
        answers = database.execute("SELECT key, value FROM entries ORDER BY key").fetchall()
        return answers + database.execute("SELECT * FROM spent").fetchall()


@pytest.fixture(scope="module")
def from_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, ChatOutcome], list[tuple[Any, ...]]]:
    """The outcomes and the ledger of a single server."""
    path = tmp_path_factory.mktemp("one") / "ledger.sqlite"
    with running() as server, Ledger(path) as ledger:
        return ask(model_at(server, ledger=ledger), CONTENTS), entries_of(ledger)


def entries_of(ledger: Ledger) -> list[tuple[Any, ...]]:
    ledger.flush()
    return entries(ledger.path)


# --- which server ----------------------------------------------------------------------------------------------------


def test_the_server_with_the_fewest_outstanding_requests_is_next_within_the_limit_of_each() -> None:
    async def entered() -> list[str]:
        pool = ServerPool(("a", "b", "c"), 8)
        a, b, c = pool.servers
        a.throttle.active, b.throttle.active, c.throttle.active = 3, 1, 2
        c.throttle.limit = 2.0
        order = [await pool.enter() for _ in range(4)]
        assert (await pool.enter(last=a)) is b, "a retry goes elsewhere if it can"
        waiting = asyncio.ensure_future(pool.enter(refused=(a, b)))
        await asyncio.sleep(0)
        pool.leave(a)
        assert not waiting.done()
        pool.leave(c)
        assert (await waiting) is c and c.throttle.active == 2
        return [server.base_url for server in order if server is not None]

    assert asyncio.run(entered()) == ["b", "b", "a", "b"]


def test_a_cancelled_wait_gives_its_slot_back_and_one_without_any_server_left_ends() -> None:
    async def trial() -> None:
        pool = ServerPool(("a", "b"), 1)
        a, b = pool.servers
        assert [await pool.enter(), await pool.enter()] == [a, b]
        cancelled, last = asyncio.ensure_future(pool.enter()), asyncio.ensure_future(pool.enter(refused=[a]))
        await asyncio.sleep(0)
        pool.leave(a)  # to `cancelled`, which has not run yet
        cancelled.cancel()
        await asyncio.sleep(0)
        assert a.throttle.active == 0 and not last.done()
        for _ in range(FAILURES):
            pool.failed(b, sent_at=1e12, why="it is down")
        assert await last is None, "b is down, and a has refused the request"

    asyncio.run(trial())


def test_a_server_is_set_aside_for_longer_each_time_and_back_after_a_check() -> None:
    now = [100.0]
    pool = ServerPool(("a", "b"), 4, clock=lambda: now[0])
    a, b = pool.servers
    checked: list[str] = []

    async def check(server: server_pool.ModelServer) -> None:
        checked.append(server.base_url)
        if len(checked) == 1:
            raise UserError("not yet")

    def fail(count: int) -> None:
        for _ in range(count):
            pool.failed(a, sent_at=now[0] + 0.001, why="connection failed")

    def look() -> bool:
        asyncio.run(pool.look_again(check))
        return a.is_up

    fail(FAILURES - 1)
    pool.succeeded(a)
    fail(FAILURES - 1)
    assert a.is_up and pool.has_another(b)
    fail(1)
    pool.failed(a, sent_at=now[0] - 1, why="sent before it was set aside")
    assert not a.is_up and not pool.has_another(b)
    now[0] += 0.04
    assert not look() and checked == []
    now[0] += 0.02
    assert not look() and checked == ["a"]
    now[0] += 0.09
    assert not look() and checked == ["a"], "the pause has doubled"
    now[0] += 0.02
    assert look() and checked == ["a", "a"]
    pool.failed(a, sent_at=now[0] + 1, why="", retry_after=7.0)
    now[0] += 6.9
    assert not look()
    pool.succeeded(a)
    assert not a.is_up, "an answer that was under way may be of the server that was there before"
    assert look() and a.is_up, "but it ends the pause"


def test_a_single_server_is_never_set_aside() -> None:
    pool = ServerPool(("a",), 4)
    for _ in range(20):
        pool.failed(pool.servers[0], sent_at=1e12, why="down", retry_after=9.0)
    assert pool.servers[0].is_up


# --- over HTTP -------------------------------------------------------------------------------------------------------


def test_requests_are_shared_and_each_server_has_its_own_limit(
    tmp_path: Path, from_one: tuple[Any, Any]
) -> None:
    with (
        running(delay_s=0.005) as one,
        running(delay_s=0.005) as two,
        running(delay_s=0.005) as three,
        Ledger(tmp_path / "ledger.sqlite") as ledger,
    ):
        model = model_at(one, two, three, ledger=ledger)
        found = ask(model, CONTENTS)
        assert (found, entries_of(ledger)) == from_one
        assert all(server.counts.total() >= 20 and server.most_at_once <= 8 for server in (one, two, three))
        assert Counter(CONTENTS) == one.counts + two.counts + three.counts
        assert [server.answered for server in model.servers] == [
            server.counts.total() for server in (one, two, three)
        ]
        assert ask(model_at(three, ledger=ledger), CONTENTS).keys() == found.keys()
        assert Counter(CONTENTS) == one.counts + two.counts + three.counts, "nothing is paid twice"


def test_a_server_that_dies_in_the_middle_is_left_out_and_used_again_when_it_is_back(
    tmp_path: Path, from_one: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    contents, stack, back = CONTENTS, ExitStack(), ExitStack()
    with running(delay_s=0.01) as lasting, stack, back, Ledger(tmp_path / "ledger.sqlite") as ledger:
        dying = stack.enter_context(running(delay_s=0.01))
        revived: list[ScriptedServer] = []

        def on_outcome(count: int) -> None:
            if count == 30:
                stack.close()
            if count == 60:
                revived.append(back.enter_context(running(port=dying.port)))
            # a check that began before may fail only now: wait for every pause until the server is used
            if revived and not revived[0].counts:
                time.sleep(max(0.02, model.servers[1].until - time.monotonic()))

        model = model_at(lasting, dying, ledger=ledger)
        with caplog.at_level(logging.WARNING):
            found = ask(model, contents, on_outcome)
        assert (found, entries_of(ledger)) == from_one
        assert dying.counts.total() > 0 and revived[0].counts.total() > 0
        twice = [one for one in contents if (lasting.counts + dying.counts + revived[0].counts)[one] > 1]
        assert len(twice) <= 8, "only what was in flight at the dead server is sent again"
    assert f"model server {dying.base_url} is not used for 0 s: connection failed" in caplog.text
    assert f"model server {dying.base_url} is used again" in caplog.text


def test_a_slow_server_gets_fewer_requests(tmp_path: Path, from_one: tuple[Any, Any]) -> None:
    with (
        running(delay_s=2.0) as slow,
        running(delay_s=0.002) as fast,
        Ledger(tmp_path / "ledger.sqlite") as ledger,
    ):
        found = ask(model_at(slow, fast, ledger=ledger), CONTENTS)
        assert (found, entries_of(ledger)) == from_one
        assert slow.counts + fast.counts == Counter(CONTENTS)
    assert slow.counts.total() <= 40 < fast.counts.total()


@pytest.mark.parametrize("behaviour", ["429", "500", "reset", "malformed", "429:30"])
def test_a_server_that_only_fails_costs_no_row_and_few_attempts(
    behaviour: str, tmp_path: Path, from_one: tuple[Any, Any]
) -> None:
    with (
        running({content: [behaviour] for content in CONTENTS}) as bad,
        running(delay_s=0.005) as good,
        Ledger(tmp_path / "ledger.sqlite") as ledger,
    ):
        found = ask(model_at(bad, good, ledger=ledger), CONTENTS)
        assert (found, entries_of(ledger)) == from_one
        assert good.counts == Counter(CONTENTS)
    assert FAILURES - 1 <= bad.counts.total() < 60


def test_servers_that_all_fail_end_the_run_with_a_sentence_that_names_them() -> None:
    with running() as one, running() as two:
        model = model_at(one, two)
    with pytest.raises(UserError) as ended:
        ask(model, [f"q{number}" for number in range(1000)])
    assert f"model servers {one.base_url}, {two.base_url} failed 8 requests in a row" in str(ended.value)
    assert "check that they run" in str(ended.value)
    assert model.usage.attempts <= MAX_ATTEMPTS * (16 + 8)


def test_what_one_server_refuses_is_asked_of_the_others_and_rejected_only_if_all_refuse() -> None:
    only_here = {content: ["404"] for content in CONTENTS}
    with running(only_here | {"q7": ["400"]}) as wrong, running({"q7": ["400"]}) as right:
        found = ask(model_at(wrong, right), CONTENTS)
    assert {key for key, outcome in found.items() if not isinstance(outcome, Completion)} == {"q7"}
    rejected = found["q7"]
    assert isinstance(rejected, Failure) and rejected.reason == "status 400: scripted 400"
    assert (rejected.attempts, wrong.counts["q7"], right.counts["q7"]) == (2, 1, 1)


def test_a_server_that_comes_back_with_another_model_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    stack = ExitStack()
    with running(delay_s=0.01) as lasting, stack:
        pending = {content: ["silent"] for content in CONTENTS[:16]}  # these fail when the server ends
        dying = stack.enter_context(running(pending, delay_s=0.01))
        other: list[ScriptedServer] = []

        def on_outcome(count: int) -> None:
            if count == 20:
                stack.close()
                other.append(stack.enter_context(running(models=["another"], port=dying.port)))

        with caplog.at_level(logging.WARNING):
            found = ask(model_at(lasting, dying), CONTENTS, on_outcome)
    assert all(isinstance(outcome, Completion) for outcome in found.values())
    assert other[0].counts.total() <= FAILURES + 8
    assert "does not offer 'scripted'" in caplog.text


def test_the_key_of_the_role_goes_to_every_server_and_into_no_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    with running({content: ["echo:500"] for content in CONTENTS}) as bad, running() as good:
        model = model_at(bad, good, api_key_env="SOME_KEY")
        with caplog.at_level(logging.DEBUG, "tasks"):
            ask(model, CONTENTS)
    for server in (bad, good):
        assert all("authorization: bearer sk-very-secret" in head.lower() for head in server.headers)
    assert "is not used" in caplog.text and "secret" not in caplog.text + repr(vars(model))


# --- the check of the servers ----------------------------------------------------------------------------------------


def listed(name: str = "scripted", owner: str = "vllm", **more: object) -> dict[str, list[str]]:
    entry = {"id": name, "object": "model", "owned_by": owner, **more}
    return {"/models": ["json:" + json.dumps({"data": [entry]})]}


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (listed(), listed("another"), r"^model server {1}/models does not offer 'scripted': set `model` to one of another$"),
        (listed(max_model_len=4096), listed(max_model_len=2048),
         r"^model servers {0} and {1} differ in their context length \(4,096 and 2,048 tokens\): name servers that are alike$"),
        (listed(), listed(owner="someone"),
         r"^model servers {0} and {1} differ in what they are, since only one is vLLM: name servers that are alike$"),
        (listed(), {"/models": ["401"]}, r"^model server {1}/models rejects the API key \(status 401\): set OPENAI_API_KEY in "),
    ],
)  # fmt: skip
def test_servers_that_differ_are_refused_in_one_sentence(
    first: dict[str, list[str]], second: dict[str, list[str]], sentence: str
) -> None:
    with running(first) as one, running(second) as two:
        for all_of_them in (False, True):
            with pytest.raises(UserError, match=sentence.format(one.base_url, two.base_url)):
                check_endpoint(role_at(one, two), all_of_them=all_of_them)


def test_the_reported_context_is_that_of_the_servers_that_report_one() -> None:
    with running(listed()) as one, running(listed(max_model_len=4096)) as two, running(listed()) as three:
        found = check_endpoint(role_at(one, two, three))
    assert found.base_urls == tuple(server.base_url for server in (one, two, three))
    assert (found.offer.is_vllm, found.offer.context) == (True, 4096)


def test_a_run_starts_while_one_of_its_servers_is_down_but_the_check_before_it_names_each(
    tmp_path: Path,
) -> None:
    with running() as up:
        with running() as gone, running() as also_gone:
            pass
        role = role_at(gone, up, also_gone)
        assert check_endpoint(role).base_urls == role.base_urls
        config = load_config("pocket", {"models.evolver": {**role.model_dump(), "serve": None}})
        problems = endpoint_problems(config, "evolver", config.models.evolver, tmp_path)
    assert [problem.split("/models")[0] for problem in problems] == [
        f"models.evolver: model server {server.base_url}" for server in (gone, also_gone)
    ]
    with pytest.raises(UserError, match=r"does not answer .*\n.*does not answer .*\n.*does not answer"):
        check_endpoint(role)


@pytest.mark.parametrize(
    ("urls", "sentence"),
    [
        ([], "base_url names no server"),
        (["http://a/v1", "http://a/v1/"], "base_url names http://a/v1 twice"),
        (["http://a/v1", "http://user:secret@b/v1"], "base_url has a user name, a password or a query"),
    ],
)
def test_a_list_of_addresses_is_checked(urls: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        ModelRole(model="m", base_url=tuple(urls))
    assert "secret" not in str(refused.value)


def test_addresses_are_no_part_of_the_identity() -> None:
    one, several = (
        ModelRole.model_validate({"model": "m", "base_url": urls})
        for urls in ("http://a/v1", ["http://a/v1", "http://b/v1"])
    )
    assert one.identity() == several.identity()
    assert (one.base_urls, several.base_urls) == (("http://a/v1",), ("http://a/v1", "http://b/v1"))
    assert ModelRole.model_validate(several.model_dump(mode="json")) == several
