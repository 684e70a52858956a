"""Replies and ledger entries: every field has the right type, sign and range, or the reply is no completion."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest

from tasks.answers.token_spans import TokenSpans
from tasks.llm.completions import (
    MAX_TOKENS,
    Completion,
    from_ledger,
    from_reply,
    plausible,
    storable,
    to_ledger,
)

TOKENS = [
    {"token": piece, "logprob": -0.5, "bytes": list(piece.encode())} for piece in ("é \\boxed{", "7", "}")
]
REPLY: dict[str, Any] = {
    "choices": [
        {"message": {"content": "é \\boxed{7}"}, "finish_reason": "stop", "logprobs": {"content": TOKENS}}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3},
}
SPANS = TokenSpans(
    after_think_token_count=3, after_think_logprob_sum=-1.5, answer_token_count=1, answer_logprob_sum=-0.5
)
NO_ANSWER = TokenSpans(after_think_token_count=3, after_think_logprob_sum=-1.5)
COMPLETION = Completion(
    key="k", text="é \\boxed{7}", finish_reason="stop", prompt_tokens=5, completion_tokens=3, logprob_sum=-1.5,
    logprob_count=3, spans=SPANS,
)  # fmt: skip


def read(reply: Any, *, logprobs: bool = True, max_tokens: int = 9) -> Completion:
    return from_reply("k", reply, logprobs=logprobs, max_tokens=max_tokens, max_chars=50)


def changed(path: tuple[str | int, ...], value: object) -> Any:
    """The reply with another value at `path`; `...` deletes it."""
    reply = copy.deepcopy(REPLY)
    where = reply
    for name in path[:-1]:
        where = where[name]  # type: ignore[index]
    if value is ...:
        del where[path[-1]]  # type: ignore[arg-type]
    else:
        where[path[-1]] = value  # type: ignore[index]
    return reply


def test_a_reply_is_read_with_its_log_probabilities() -> None:
    assert read(REPLY) == COMPLETION
    plain = read(REPLY, logprobs=False)
    assert (plain.logprob_sum, plain.logprob_count, plain.spans) == (None, 0, None)


FIRST = ("choices", 0)
TOKEN = (*FIRST, "logprobs", "content", 1)
WRONG: list[tuple[tuple[str | int, ...], object]] = [
    (("choices",), []),
    (("choices",), {"0": 1}),
    (FIRST, None),
    ((*FIRST, "message"), "text"),
    ((*FIRST, "message", "content"), 7),
    ((*FIRST, "message", "content"), []),
    ((*FIRST, "message", "content"), False),
    ((*FIRST, "finish_reason"), {"stop": 1}),
    ((*FIRST, "finish_reason"), "abort"),  # vLLM's server, shut down while it generates
    ((*FIRST, "finish_reason"), "error"),
    (("usage",), [1]),
    (("usage",), {"prompt_tokens": 5}),
    *(((("usage", name), value)) for name in ("prompt_tokens", "completion_tokens") for value in (
        -1, 2**63, 2**64, MAX_TOKENS + 1, 3.0, "3", True, None, math.nan, 10**400)),
    ((*FIRST, "logprobs"), 3),
    ((*FIRST, "logprobs"), None),
    ((*FIRST, "logprobs", "content"), {}),
    ((*FIRST, "logprobs", "content"), []),
    ((*FIRST, "logprobs", "content"), [TOKENS[0]] * 5_000),
    ((*FIRST, "logprobs", "content"), [1, 2, 3]),
    (TOKEN, None),
    ((*TOKEN, "logprob"), ...),
    *(((*TOKEN, "logprob"), value) for value in (
        1, 0.5, -1e17, -10_001, math.nan, math.inf, -math.inf, "-1", None, True, [-1], -(10**400))),
    *(((*TOKEN, "bytes"), value) for value in (10_000_000_000_000, -1, True, "7", [256], [-1], ["7"], [10**30], {})),
    ((*TOKEN, "token"), 7),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda part: str(part)[:50])
def test_a_value_that_cannot_be_makes_the_reply_no_completion(
    path: tuple[str | int, ...], value: object
) -> None:
    reply = changed(path, value)
    if path[-1] == "token":
        del reply["choices"][0]["logprobs"]["content"][1]["bytes"]
    with pytest.raises(ValueError):
        read(reply)


@pytest.mark.parametrize("reply", [None, 5, "text", [], [1], {}, {"choices": "abc"}], ids=str)
def test_a_reply_of_another_shape_is_no_completion(reply: object) -> None:
    with pytest.raises(ValueError, match="no chat completion"):
        read(reply)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("usage",), None, {"prompt_tokens": 0, "completion_tokens": 0}),
        (("usage",), ..., {"prompt_tokens": 0, "completion_tokens": 0}),
        ((*FIRST, "finish_reason"), None, {}),
        ((*FIRST, "message", "content"), None, {"text": "", "spans": NO_ANSWER}),
        ((*TOKEN, "logprob"), -9999, {"logprob_sum": -1.0 - 9999}),
        ((*TOKEN, "logprob"), 1e-6, {"logprob_sum": -1.0}),
        ((*TOKEN, "bytes"), None, {}),
        ((*FIRST, "message", "content"), "other", {"text": "other", "spans": None}),
        ((*FIRST, "message", "content"), "x" * 51, {"text": "x" * 50, "finish_reason": "too_long", "spans": None}),
    ],
)  # fmt: skip
def test_what_servers_really_send_is_accepted(path: Any, value: object, expected: dict[str, Any]) -> None:
    found = read(changed(path, value))
    for name, wanted in expected.items():
        assert getattr(found, name) == wanted


def test_more_tokens_than_were_asked_for_are_no_completion() -> None:
    assert read(REPLY, max_tokens=2).logprob_count == 3  # with the end token
    with pytest.raises(ValueError, match="3 log-probabilities, not 1 to 2"):
        read(REPLY, max_tokens=1)


# --- the ledger --------------------------------------------------------------------------------------------------

ENTRY = json.loads(json.dumps(to_ledger(COMPLETION)))
PLAIN = json.loads(json.dumps(to_ledger(read(REPLY, logprobs=False))))


def test_an_entry_gives_the_same_completion() -> None:
    found = from_ledger("k", ENTRY, logprobs=True)
    assert found is not None and found.cached and to_ledger(found) == to_ledger(COMPLETION)
    assert from_ledger("k", PLAIN, logprobs=False) is not None
    assert (
        from_ledger("k", {name: value for name, value in ENTRY.items() if name != "spans"}, logprobs=True)
        is not None
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("prompt_tokens", value) for value in (-1, 2**63, 1.0, "1", None, True)),
        *(("completion_tokens", value) for value in (-1, 2**63)),
        *(("logprob_sum", value) for value in (-1e17, 1.0, math.nan, math.inf, "x", None)),
        *(("logprob_count", value) for value in (0, -1, 2**63, None)),
        *(("text", value) for value in (None, 5, "half \ud83d")),
        ("finish_reason", None),
        ("finish_reason", "abort"),
        ("extra", 1),
        *(("spans", value) for value in (None, 5, {}, {**ENTRY["spans"], "answer_token_count": 4})),
        *(("spans", {**ENTRY["spans"], "answer_logprob_sum": value}) for value in (1.0, -1e17, "x")),
    ],
)
def test_an_entry_that_cannot_be_used_is_none(name: str, value: object) -> None:
    assert from_ledger("k", {**ENTRY, name: value}, logprobs=True) is None


@pytest.mark.parametrize("value", [None, 5, [], {}, {"text": "x"}], ids=str)
def test_an_entry_of_another_shape_is_none(value: object) -> None:
    assert from_ledger("k", value, logprobs=False) is None


def test_an_entry_without_log_probabilities_does_not_answer_a_request_for_them() -> None:
    assert from_ledger("k", PLAIN, logprobs=True) is None
    assert from_ledger("k", ENTRY, logprobs=False) is None


def test_plausible_sums_and_storable_texts() -> None:
    assert plausible(-9999.0 * 3, 3) and plausible(0, 1) and not plausible(-1e5, 3) and not plausible(1e-9, 3)
    assert not plausible(True, 1) and not plausible(math.nan, 1)
    assert storable("é") and not storable("\ud83d") and not storable(b"x")
