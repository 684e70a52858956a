"""Faulty replies, broken connections and poisoned ledger entries against the real chat client.

No reply may end the run: every request gets exactly one outcome, every completion has values that can be counted and stored, and
a second run finds all of them in the ledger.
"""

from __future__ import annotations

import copy
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.answers.token_spans import TokenSpans
from tasks.config import ModelRole, Sampling
from tasks.llm import chat
from tasks.llm.chat import ChatModel, ChatOutcome, ChatRequest
from tasks.llm.completions import MAX_TOKENS, Completion, from_ledger, plausible, storable, to_ledger
from tasks.llm.ledger import Ledger, _packed
from tests.hostile.trials import Trials
from tests.scripted_server import ScriptedServer, running

BATCH = 250
HUGE_NUMBER = "a number of 5,000 digits"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 10_000_000_000_000, 10**400, HUGE_NUMBER, 0.5, -0.0, 1e308,
    -1e17, float("nan"), float("inf"), -float("inf"), "", "7", "\x00", "\ud83d", "<script>", "x" * 120_000, [], [None], [[]],
    {}, {"": {}}, [[[[[[]]]]]], list(range(300)), b"".hex(),
)  # fmt: skip
CONNECTION = (
    "reset", "cut", "truncated", "malformed", "garbage", "no_choices", "empty", "huge", "length", "gzip", "gzips", "trickle",
    "hangup", "429:0", "500", "503", "400", "404", "echo", "echo:400", "echo:500", "json:", "json:null", "json:" + "[" * 50_000,
)  # fmt: skip


def reply(rng: random.Random) -> dict[str, Any]:
    """A good reply of one to four tokens."""
    pieces = [
        rng.choice(("We ", "get ", "\\boxed{", "7", "}", "é", "</think>")) for _ in range(rng.randint(1, 4))
    ]
    tokens = [{"token": one, "logprob": -rng.random(), "bytes": list(one.encode())} for one in pieces]
    message = {"role": "assistant", "content": "".join(pieces)}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": {"content": tokens}}
    usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "total_tokens": 7 + len(pieces)}
    return {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a JSON value: its container and its name or index."""
    pairs = list(
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [(value, name) for name, _ in pairs] + [place for _, inner in pairs for place in places(inner)]


def mutated(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three changes: another value, a missing one, or one that is repeated up to 5,000 times."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not (found := places(value)):
            break
        container, name = rng.choice(found)
        how = rng.random()
        if how < 0.7:
            container[name] = copy.deepcopy(rng.choice(VALUES))
        elif how < 0.85:
            del container[name]
        elif isinstance(container, list):
            container[name:name] = [copy.deepcopy(container[name])] * rng.choice((1, 5, 5_000))
        else:
            container[name] = [container[name]]
    return value


def text_of(value: Any) -> str:
    return json.dumps(value).replace(json.dumps(HUGE_NUMBER), "9" * 5_000)


def behaviours(rng: random.Random) -> list[str]:
    """What the server does with the attempts at one request: faults, then a good reply."""

    def fault() -> str:
        return rng.choice(CONNECTION) if rng.random() < 0.3 else f"json:{text_of(mutated(reply(rng), rng))}"

    return [*(fault() for _ in range(rng.choice((1, 1, 1, 2)))), "ok:\\boxed{7}"]


def requests(count: int) -> list[ChatRequest]:
    """Requests of which every other one asks for log-probabilities."""
    return [
        ChatRequest(
            key=str(number), messages=[{"role": "user", "content": f"q{number}"}], sampling=Sampling(max_tokens=9),
            prompt="p", seed=number, logprobs=number % 2 == 0,
        )
        for number in range(count)
    ]  # fmt: skip


def ask(server: ScriptedServer, path: Path, asked: Sequence[ChatRequest]) -> list[ChatOutcome]:
    role = ModelRole(
        model="m", base_url=server.base_url, api_key_env="HOSTILE_KEY", concurrency=16, request_timeout_s=60.0
    )
    with Ledger(path) as ledger:
        return ChatModel(role, server.base_url, "m", "m@1", ledger).complete_all(asked)


def wrong(outcome: ChatOutcome, request: ChatRequest) -> str:
    """Why an outcome cannot be counted or stored; empty if it can."""
    if not isinstance(outcome, Completion):
        return (
            ""
            if storable(outcome.reason) and len(outcome.reason) < 600 and "sk-hostile" not in outcome.reason
            else "reason"
        )
    counts = (outcome.prompt_tokens, outcome.completion_tokens, outcome.logprob_count)
    good = (
        all(0 <= count <= MAX_TOKENS for count in counts)
        and storable(outcome.text) and len(outcome.text) <= 100_000 and storable(outcome.finish_reason)
        and "sk-hostile" not in outcome.text
        and (plausible(outcome.logprob_sum, outcome.logprob_count) if request.logprobs else outcome.logprob_sum is None)
        and from_ledger("", json.loads(json.dumps(to_ledger(outcome))), logprobs=request.logprobs) is not None
    )  # fmt: skip
    return "" if good else repr(outcome)[:300]


def faulty_batch(number: int, count: int, path: Path) -> list[str]:
    """Send `count` requests to a faulty server, then those that failed again; return what was wrong."""
    rng = random.Random(f"faulty replies {number}")
    asked = requests(count)
    script = {f"q{index}": behaviours(rng) for index in range(count)}
    with running(script) as server:
        first = ask(server, path, asked)
        sent = server.counts.copy()
        again = ask(server, path, asked)
        resent = server.counts - sent
    failed = {f"q{one.key}" for one in first if not isinstance(one, Completion)}
    wrongs = [
        f"batch {number}, request {request.key}, {script[f'q{request.key}'][0][:200]}: {problem}"
        for request, *outcomes in zip(asked, first, again, strict=True)
        for outcome in outcomes
        if (problem := wrong(outcome, request))
    ]
    if [one.key for one in first] != [one.key for one in asked]:
        wrongs.append(f"batch {number}: not one outcome for each request")
    if not set(resent) <= failed:
        wrongs.append(
            f"batch {number}: answered requests were sent again: {sorted(set(resent) - failed)[:5]}"
        )
    answered = [one for one in [*first, *again] if isinstance(one, Completion) and not one.cached]
    with Ledger(path) as ledger:
        spent = ledger.spent()["m@1"]
    if (spent.requests, spent.prompt_tokens) != (len(answered), sum(one.prompt_tokens for one in answered)):
        wrongs.append(f"batch {number}: the ledger adds up {spent}")
    return wrongs


def poisoned_batch(number: int, count: int, path: Path) -> list[str]:
    """Poison the ledger of a finished run; the next run must end with good completions, and the one after send nothing."""
    rng, asked = random.Random(f"poisoned entries {number}"), requests(count)
    with running({}) as server:
        ask(server, path, asked)
        sent = server.counts.total()
        connection = sqlite3.connect(path)
        with connection:
            for (key,) in connection.execute("SELECT key FROM entries").fetchall():
                connection.execute("DELETE FROM entries WHERE key = ?", (key,))
                if rng.random() < 0.5:
                    connection.execute(
                        "INSERT INTO entries VALUES (?, ?)", (key, rng.randbytes(rng.randint(0, 40)))
                    )
                else:
                    entry = _packed(text_of(mutated(json.loads(rng.choice(ENTRIES)), rng)))
                    connection.execute("INSERT INTO entries VALUES (?, ?)", (key, entry))
        connection.close()
        outcomes = ask(server, path, asked)
        after = server.counts.total()
        again = ask(server, path, asked)
    problems = [problem for pair in zip(outcomes, asked, strict=True) if (problem := wrong(*pair))]
    if not all(isinstance(one, Completion) and one.cached for one in again):
        problems.append("an entry is no completion")
    if server.counts.total() != after or after > sent + count:
        problems.append("an entry is asked for more than once")
    return [f"batch {number}: {problem}" for problem in problems]


PLAIN = Completion(key="", text="x", finish_reason="stop", prompt_tokens=1, completion_tokens=1)
SPANS = TokenSpans(after_think_token_count=1, after_think_logprob_sum=-1.0)
ENTRIES = [
    json.dumps(to_ledger(one))
    for one in (PLAIN, replace(PLAIN, logprob_sum=-1.0, logprob_count=1, spans=SPANS))
]


@pytest.fixture(autouse=True)
def a_key_and_short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "pause_before", lambda _attempt, _retry_after=None: 0.002)
    monkeypatch.setenv("HOSTILE_KEY", "sk-hostile-0123456789")


def test_some_faulty_replies_and_entries(trials: Trials, tmp_path: Path) -> None:
    trials.add("faulty replies", BATCH, faulty_batch(0, BATCH, tmp_path / "replies"))
    trials.add("poisoned ledger entries", BATCH, poisoned_batch(0, BATCH, tmp_path / "entries"))


@pytest.mark.hostile
@pytest.mark.timeout(1_200)
def test_ten_thousand_faulty_replies(trials: Trials, tmp_path: Path) -> None:
    failures = [one for number in range(1, 41) for one in faulty_batch(number, BATCH, tmp_path / str(number))]
    trials.add("faulty replies", 40 * BATCH, failures)


@pytest.mark.hostile
@pytest.mark.timeout(1_200)
def test_two_thousand_poisoned_entries(trials: Trials, tmp_path: Path) -> None:
    failures = [
        one for number in range(1, 9) for one in poisoned_batch(number, BATCH, tmp_path / str(number))
    ]
    trials.add("poisoned ledger entries", 8 * BATCH, failures)


def test_the_generator_makes_the_faults_that_ended_runs() -> None:
    seen = Counter[str]()
    for number in range(60):
        for text in behaviours(random.Random(number)):
            seen.update(
                part for part in ("10000000000000", "-1e+17", "9223372036854775808", "NaN") if part in text
            )
    assert len(seen) == 4, seen
