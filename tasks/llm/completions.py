"""Answered chat requests: read from a server's reply or from the ledger, with every field checked for type, sign and range."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from tasks.answers.token_spans import TokenSpans, ends_of_pieces, token_spans

MAX_REPLY_CHARS: Final = 100_000
TOO_LONG: Final = "too_long"
BROKEN_OFF: Final = frozenset({"abort", "error"})
"""Finish reasons of a reply that ends where the server stopped: vLLM answers so what it works on when it is shut down."""
MAX_TOKENS: Final = 2**40
"""Highest token count of one reply that is believed. The ledger adds up 64-bit integers."""
LOWEST_LOGPROB: Final = -1e4
"""Lowest log-probability of a token (nats); servers send -9999 for minus infinity."""
ROUNDING: Final = 1e-3
"""How far above 0 a log-probability may be; it counts as 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An answered request. `finish_reason` is the server's, or `too_long` if the text was truncated to 100,000 characters.

    `logprob_sum` (nats) and `logprob_count` cover the returned tokens; None and 0 unless requested. `spans` has the same for
    parts of the reply; None if the server's tokens do not add up to its text.
    """

    key: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached: bool = False
    logprob_sum: float | None = None
    logprob_count: int = 0
    spans: TokenSpans | None = None


def plausible(logprob_sum: object, tokens: int) -> bool:
    """Whether `logprob_sum` is a number that the log-probabilities of so many tokens can add up to (false for NaN)."""
    return type(logprob_sum) in (float, int) and LOWEST_LOGPROB * tokens <= logprob_sum <= 0.0  # type: ignore[operator]


def storable(value: object) -> bool:
    """Whether a value is a text that a table can hold: without halves of surrogate pairs."""
    if type(value) is not str:
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# --- a reply -----------------------------------------------------------------------------------------------------


def from_reply(key: str, reply: Any, *, logprobs: bool, max_tokens: int, max_chars: int) -> Completion:
    """Build a completion from the JSON of a reply. `max_tokens` was the limit of the request. Raises `ValueError` with what is
    wrong if it is no chat completion, was broken off, or has a value that cannot be."""
    choice = _field(_field(reply, "choices", list, of="reply")[:1], 0, dict, of="choices")
    content = _field(_field(choice, "message", dict), "content", str, optional=True) or ""
    text = content.encode("utf-8", "replace").decode("utf-8")  # replaces lone surrogates
    reason = _field(choice, "finish_reason", str, optional=True) or "stop"
    if reason in BROKEN_OFF:
        raise ValueError(f"the server broke the reply off (finish_reason {reason!r})")
    usage = _field(reply, "usage", dict, optional=True, of="reply") or {
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }
    prompt_tokens, completion_tokens = (
        _tokens(usage, name) for name in ("prompt_tokens", "completion_tokens")
    )
    found = _field(choice, "logprobs", dict, optional=True) or {}
    tokens = _field(found, "content", list, optional=True, of="logprobs") or []
    values, spans = [], None
    if logprobs:
        limit = (
            min(max_tokens, completion_tokens or max_tokens) + 1
        )  # one more: the end token, which not every server counts
        values = _logprobs(tokens, limit)
        spans = _spans(text[:max_chars], tokens, values)
    return Completion(
        key=key,
        text=text[:max_chars],
        finish_reason=TOO_LONG
        if len(text) > max_chars
        else reason[:500].encode("utf-8", "replace").decode("utf-8"),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        logprob_sum=sum(values) if logprobs else None,
        logprob_count=len(values),
        spans=spans,
    )


def _field(where: Any, name: str | int, kind: type, *, optional: bool = False, of: str = "choice") -> Any:
    """Return a field of the JSON of a reply. Raises `ValueError` if it is missing or of another type; with `optional` a missing
    one is None, as is null."""
    try:
        value = where[name]
    except (LookupError, TypeError):
        value = None
    if type(value) is kind or (optional and value is None and isinstance(where, dict)):
        return value
    raise ValueError(f"no chat completion: {name!r} of its {of} is not {kind.__name__}")


def _tokens(usage: Mapping[str, Any], name: str) -> int:
    count = usage.get(name)
    if type(count) is not int or not 0 <= count <= MAX_TOKENS:
        raise ValueError(f"its usage has no {name} from 0 to {MAX_TOKENS:,}")
    return count


def _logprobs(tokens: Sequence[Any], limit: int) -> list[float]:
    """Return the log-probability of each token. Raises `ValueError` unless there are 1 to `limit`, each a number in range."""
    if not 0 < len(tokens) <= limit:
        raise ValueError(f"it has {len(tokens):,} log-probabilities, not 1 to {limit:,}")
    try:
        values = [token["logprob"] for token in tokens]
    except (LookupError, TypeError) as error:
        raise ValueError("a token has no log-probability") from error
    if not set(map(type, values)) <= {float, int} or not all(
        LOWEST_LOGPROB <= one <= ROUNDING for one in values
    ):
        raise ValueError(f"a log-probability is not a number from {LOWEST_LOGPROB:g} to 0")
    return [float(min(one, 0.0)) for one in values]


def _spans(text: str, tokens: Sequence[Mapping[str, Any]], logprobs: Sequence[float]) -> TokenSpans | None:
    """Compute spans from the bytes of each token, since a token may contain part of a character, or from its text if the
    server sends no bytes. Raises `ValueError` if a token has neither."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [
        _field(token, "token", str, of="token")
        if token.get("bytes") is None
        else decoder.decode(_bytes(token["bytes"]))
        for token in tokens
    ]
    ends = ends_of_pieces(text, pieces)
    return None if ends is None else token_spans(text, logprobs, ends)


def _bytes(values: Any) -> bytes:
    """Return the bytes of a token. A number must not get here: `bytes(n)` allocates n bytes."""
    if type(values) is list:
        with suppress(OverflowError, TypeError, ValueError):
            return bytes(values)
    raise ValueError("the bytes of a token are not a list of bytes")


# --- the ledger --------------------------------------------------------------------------------------------------


def to_ledger(completion: Completion) -> dict[str, Any]:
    """Return what the ledger keeps of a completion, as JSON data."""
    value = {name: getattr(completion, name) for name in _KEPT}
    return value if completion.spans is None else value | {"spans": asdict(completion.spans)}


def from_ledger(key: str, value: Any, *, logprobs: bool) -> Completion | None:
    """Return the completion in a ledger entry; None if the entry cannot be used, whoever wrote it."""
    if not _has(value, _KEPT, ("spans",)) or not _has(spans := value.get("spans", _NO_SPANS), _NO_SPANS):
        return None
    count, total, counts = value["logprob_count"], value["logprob_sum"], [value[name] for name in _COUNTS]
    span_counts = spans["after_think_token_count"], spans["answer_token_count"]
    usable = (
        storable(value["text"])
        and len(value["text"]) <= MAX_REPLY_CHARS
        and storable(value["finish_reason"])
        and value["finish_reason"] not in BROKEN_OFF
        and all(type(one) is int and 0 <= one <= MAX_TOKENS for one in (*counts, *span_counts))
        and (count > 0 and plausible(total, count) if logprobs else (total, count) == (None, 0))
        and all(one <= count for one in span_counts)
        and all(
            spans[name] is None or plausible(spans[name], count)
            for name in ("after_think_logprob_sum", "answer_logprob_sum")
        )
    )
    found = {"spans": TokenSpans(**spans)} if usable and "spans" in value else {}
    return Completion(key=key, cached=True, **{**value, **found}) if usable else None


def _has(value: Any, names: Collection[str], more: Collection[str] = ()) -> bool:
    """Whether a JSON value is an object with exactly these names, and at most `more`."""
    return isinstance(value, dict) and value.keys() - set(more) == set(names)


_COUNTS: Final = ("prompt_tokens", "completion_tokens", "logprob_count")
_KEPT: Final = ("text", "finish_reason", "prompt_tokens", "completion_tokens", "logprob_sum", "logprob_count")
_NO_SPANS: Final = asdict(TokenSpans())
