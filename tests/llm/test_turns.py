"""Batches run back to back: one starts while the slowest answer of the previous one is pending; each request is sent once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import openai
import pytest

from tasks.config import ModelRole, Sampling
from tasks.errors import UserError
from tasks.llm import endpoint
from tasks.llm.chat import ChatModel, ChatOutcome, ChatRequest, Completion
from tasks.llm.endpoint import open_client
from tasks.llm.turns import Turns
from tests.scripted_server import ScriptedServer, running

SAMPLING = Sampling(temperature=0.0, top_p=1.0, max_tokens=10)


def requests(*contents: str) -> list[ChatRequest]:
    return [
        ChatRequest(key=text, messages=[{"role": "user", "content": text}], sampling=SAMPLING, prompt="p")
        for text in contents
    ]


def model_at(server: ScriptedServer, concurrency: int = 4) -> ChatModel:
    role = ModelRole(model="scripted", base_url=server.base_url, serve=None, concurrency=concurrency)
    return ChatModel(role, server.base_url, "scripted", "scripted@1")


def texts(outcomes: Sequence[ChatOutcome]) -> list[str]:
    """Return the contents that were echoed."""
    return [outcome.text.removeprefix("echo ") for outcome in outcomes if isinstance(outcome, Completion)]


def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` returns true."""
    ends = time.monotonic() + 20
    while not condition() and time.monotonic() < ends:
        time.sleep(0.01)
    assert condition()


def test_the_answers_of_every_batch_are_in_the_order_of_its_requests() -> None:
    batches = [[f"{batch}-{number}" for number in range(11)] for batch in range(5)]
    with running() as server, Turns(lambda: model) as turns:
        model = model_at(server)
        answers = [turns.ask(requests(*batch)) for batch in batches]
        assert [texts(one.wait(lambda _done: None)) for one in answers] == batches
        assert server.counts.total() == 55 and server.most_at_once <= 4
        assert model.usage.completions == 55


def test_batches_that_overlap_share_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[str]()

    def counting(role: ModelRole, base_url: str) -> openai.AsyncOpenAI:
        opened.append(base_url)
        return open_client(role, base_url)

    monkeypatch.setattr(endpoint, "open_client", counting)
    with running(delay_s=0.1) as server, Turns(lambda: model) as turns:
        model = model_at(server)
        answers = [turns.ask(requests(*(f"{batch}-{number}" for number in range(20)))) for batch in range(5)]
        assert sum(len(texts(one.wait(lambda _done: None))) for one in answers) == 100
    assert server.most_at_once == 4
    assert opened == [server.base_url]  # and with it the connections; 5 without sharing


def test_the_next_batch_starts_only_when_the_last_request_has_been_sent() -> None:
    with running({"drip": ["slow"]}) as server, Turns(lambda: model_at(server)) as turns:
        first = turns.ask(requests("drip", *(f"a{number}" for number in range(20))))
        second = turns.ask(requests("b"))
        assert texts(second.wait(lambda _done: None)) == ["b"]
        assert not first.future.done()
        order = [body["messages"][-1]["content"] for body in server.bodies]
        assert order.index("b") >= 17  # three slots besides the one that drips


def test_unfinished_batches_are_cancelled_when_the_block_ends() -> None:
    threads = threading.active_count()
    with running({"drip": ["silent"]}) as server:
        with pytest.raises(ZeroDivisionError), Turns(lambda: model_at(server)) as turns:
            turns.ask(requests("drip"))
            later = turns.ask(requests(*(f"b{number}" for number in range(100))))
            until(lambda: server.counts["drip"] == 1)
            raise ZeroDivisionError
        assert later.future.done()
    until(lambda: threading.active_count() <= threads)


def test_a_progress_callback_that_raises_ends_the_wait_and_a_rejected_key_is_a_user_error() -> None:
    def stop(_done: int) -> None:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        running({"drip": ["silent"]}) as server,
        Turns(lambda: model_at(server)) as turns,
    ):
        turns.ask(requests("drip", "a")).wait(stop)
    with running({"a": ["401"]}) as server, Turns(lambda: model_at(server)) as turns:
        with pytest.raises(UserError, match="rejects the API key"):
            turns.ask(requests("a")).wait(lambda _done: None)
        assert texts(turns.ask(requests("b")).wait(lambda _done: None)) == ["b"]


def test_the_model_is_not_created_for_an_empty_batch() -> None:
    def model() -> ChatModel:
        raise AssertionError("no model is needed")

    with Turns(model) as turns:
        assert turns.ask([]).wait(lambda _done: None) == []
