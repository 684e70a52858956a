"""Parsing of a model's raw reply into a verdict or an evolved problem, or a reason for rejecting it.

Replies are untrusted: their length is checked before they are parsed, and parsing never raises.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from tasks.answers.equivalence import simplest_forms_decision
from tasks.rows import QUALITY_CRITERIA, Criteria, Reason
from tasks.text import control_token

MAX_REPLY_CHARS: Final = 20_000
MAX_OBJECTS: Final = 20  # beginnings of a JSON object in a reply that are tried


@dataclass(frozen=True, slots=True, kw_only=True)
class BadReply:
    """A rejected reply. `detail` describes the defect in a few words."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EquivalenceVerdict:
    """The equivalence judge's simplest form of each answer, and its verdict."""

    first: str
    second: str
    equivalent: bool

    @property
    def same(self) -> bool:
        """Whether the answers are equivalent.

        The simplest forms decide if they can be compared, otherwise the judge's own verdict. Small judges are better at
        simplifying than at comparing (measured in `pocket/README.md`).
        """
        decided = simplest_forms_decision(self.first, self.second)
        return self.equivalent if decided is None else decided


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapVerdict:
    """The quality judge's reason, and whether two problems are the same."""

    reason: str
    same: bool


_OVERLAP_TYPES: Final[dict[str, type]] = {"reason": str, "same": bool}
_EQUIVALENCE_TYPES: Final[dict[str, type]] = {"first": str, "second": str, "equivalent": bool}

# Where a JSON object may begin, and what the decoder does not accept although its meaning is plain.
_OBJECT: Final = re.compile(r"\{\s*[\"']")
_LOOSE: Final = re.compile(
    r"\"(?:[^\"\\]|\\.)*\"|'(?P<quoted>(?:[^'\"\\]|\\.)*)'|(?P<comma>,)(?=\s*[}\]])|\b(?P<word>True|False|None)\b",
    re.DOTALL,
)
_WORDS: Final = {"True": "true", "False": "false", "None": "null"}
# A backslash that begins a JSON escape (`\n` before a letter is LaTeX, as in `\neq`; `\b` and `\f` always are), or a single one.
_BACKSLASH: Final = re.compile(r"\\(?:[\"\\/]|u[0-9a-fA-F]{4}|[nrt](?![A-Za-z])|)")
_ROW_BREAK: Final = re.compile(r"(?<!\\)\\\\(?=[\s\d&+.\\-]|[A-Za-z](?![A-Za-z]))")

_TEXT: Final = r"(?:(?!</?\s*evolved\s*>).)*"
_BLOCK: Final = re.compile(
    rf"(?P<before>{_TEXT})<\s*evolved\s*>(?P<problem>{_TEXT})</\s*evolved\s*>(?P<after>{_TEXT})",
    re.DOTALL | re.IGNORECASE,
)
_TAG: Final = re.compile(r"<(/?)\s*evolved\s*>", re.IGNORECASE)
_REFUSAL: Final = re.compile(
    r"\b(?:I(?: cannot| can't| can not| am unable|'m unable| won't| will not| am sorry|'m sorry)|as an AI|as a language model"
    r"|sorry, (?:but )?I|I apologi[sz]e)\b",
    re.IGNORECASE,
)
_REFUSED_AT_ONCE: Final = re.compile(rf"\W*(?:\w+,\s*)?{_REFUSAL.pattern}", re.IGNORECASE)
_SOLUTION: Final = re.compile(
    # a filled box, but not \boxed{} or \boxed{\text{answer}}; a heading; "The answer is 5"
    r"\\boxed\s*\{(?!\s*(?:\\(?:text|mathrm|[lc]?dots|square|q?quad|hspace|phantom)\b|[A-Za-z ?._]*\}))"
    r"|(?:^|[.?!])[\s>*_#(\[]*(?:the\s+)?(?:final\s+)?(?:solution|answer)\b"
    r"(?:[*_]*\s*:|[*_#]*[ \t]*(?:\.[*_]*\s|[*_]*\n)|\s+is\s*:?\s*\$?[-+\\(]*\d)",
    re.IGNORECASE | re.MULTILINE,
)
_PUNCTUATION: Final = re.compile(r"(?<!\d)[.,]|[.,](?!\d)|[;:?'\"`$\s]+")


class _Malformed(ValueError):
    """The reply has a verdict, but in a form that is not accepted."""


def parse_quality(reply: str, finish_reason: str, *, max_chars: int = MAX_REPLY_CHARS) -> Criteria | BadReply:
    """Parse the quality judge's reply: one JSON object that has the five criteria, each true or false.

    Prose, code fences and thinking around the object, further keys, and loose JSON (quoted booleans, Python's quotes and
    constants, a trailing comma) are accepted. Rejected are replies with two such objects, even if they agree, and objects in
    which a key is missing or occurs twice.
    """
    found = _verdict(reply, finish_reason, dict.fromkeys(QUALITY_CRITERIA, bool), max_chars)
    return found if isinstance(found, BadReply) else Criteria(**found)


def parse_equivalence(
    reply: str, finish_reason: str, *, max_chars: int = MAX_REPLY_CHARS
) -> EquivalenceVerdict | BadReply:
    r"""Parse the equivalence judge's reply: one JSON object that has `first`, `second` (text or number) and `equivalent`.

    The same forms are accepted as by `parse_quality`. LaTeX need not be escaped: the `\f` of `\frac` is never a form feed.
    """
    found = _verdict(reply, finish_reason, _EQUIVALENCE_TYPES, max_chars)
    return found if isinstance(found, BadReply) else EquivalenceVerdict(**found)


def parse_overlap(
    reply: str, finish_reason: str, *, max_chars: int = MAX_REPLY_CHARS
) -> OverlapVerdict | BadReply:
    """Parse the quality judge's reply about two problems: one JSON object that has `reason` and `same`, in the forms that
    `parse_quality` accepts."""
    found = _verdict(reply, finish_reason, _OVERLAP_TYPES, max_chars)
    return found if isinstance(found, BadReply) else OverlapVerdict(**found)


def parse_evolution(
    reply: str, finish_reason: str, parent: str, max_chars: int = MAX_REPLY_CHARS
) -> str | BadReply:
    """Parse the evolved problem: the text of the reply's `<evolved>` block, without control characters or extra white space.

    Rejected are replies without exactly one block, refusals, copies of the parent (ignoring case, spaces and
    punctuation), and texts that contain a control token of chat templates or a solution.
    """
    text = _bounded(reply, finish_reason, max_chars)
    if isinstance(text, BadReply):
        return text
    block = _BLOCK.fullmatch(text)
    refusal = _REFUSAL.search(_straight(block["before"] + "\n" + block["after"] if block else text))
    if refusal:
        return _bad(Reason.REFUSAL, refusal[0])
    if block is None:
        tags = [tag[1] for tag in _TAG.finditer(text)]
        return _bad(
            Reason.MALFORMED_REPLY, f"{tags.count('')} <evolved> and {tags.count('/')} </evolved> tags"
        )
    return _checked_problem(_tidy(block["problem"]), parent)


def _checked_problem(problem: str, parent: str) -> str | BadReply:
    if not problem:
        return _bad(Reason.MALFORMED_REPLY, "the <evolved> block is empty")
    refusal = _REFUSED_AT_ONCE.match(_straight(problem))
    if refusal and not any(map(str.isdigit, problem)):  # "I cannot recall my code of 4 digits" is a problem
        return _bad(Reason.REFUSAL, refusal[0])
    if _essence(problem) == _essence(parent):
        return _bad(Reason.ECHO, "the parent's text again")
    if token := control_token(problem):
        return _bad(Reason.CONTROL_TOKEN, token)
    leak = _SOLUTION.search(problem)
    if leak:
        return _bad(Reason.SOLUTION_LEAKED, leak[0])
    return problem


def _bounded(reply: str, finish_reason: str, max_chars: int) -> str | BadReply:
    """Return the reply after any thinking, stripped, if it is complete, not too long and not empty."""
    if finish_reason == "length":
        return _bad(Reason.TRUNCATED, f"cut off after {len(reply)} characters")
    if len(reply) > max_chars:
        return _bad(Reason.REPLY_TOO_LONG, f"{len(reply)} characters, at most {max_chars}")
    text = reply.rpartition("</think>")[2].strip()
    if not text:
        return _bad(Reason.NO_REPLY, f"empty, finish reason {finish_reason!r}")
    return text


def _verdict(
    reply: str, finish_reason: str, types: dict[str, type], max_chars: int
) -> dict[str, Any] | BadReply:
    """Return the values of the keys of `types` in the reply's one JSON object that has any of these keys."""
    text = _bounded(reply, finish_reason, max_chars)
    if isinstance(text, BadReply):
        return text
    try:
        found = [data for data in _objects(_escaped(text)) if data.keys() & types.keys()]
    except _Malformed as error:
        return _bad(Reason.MALFORMED_REPLY, str(error))
    if len(found) != 1:
        return _bad(Reason.MALFORMED_REPLY, f"{len(found)} JSON objects with a verdict in: {text[:60]}")
    data = found[0]
    if not data.keys() >= types.keys():
        return _bad(Reason.MALFORMED_REPLY, f"keys {_listed(data)} instead of {_listed(types)}")
    values = {key: _value(data[key], kind) for key, kind in types.items()}
    wrong = [key for key, value in values.items() if value is None]
    if wrong:
        return _bad(Reason.MALFORMED_REPLY, f"{wrong[0]} must be of type {types[wrong[0]].__name__}")
    return values


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text, and those inside an object, with keys in lower case; numbers are strings."""
    for _ in range(MAX_OBJECTS):
        start = _OBJECT.search(text)
        if start is None:
            return
        rest = text[start.start() :]
        data, text = _decoded(rest) or _decoded(_LOOSE.sub(_strict, rest)) or ({}, text[start.end() :])
        yield data
        yield from (value for value in data.values() if isinstance(value, dict))
    raise _Malformed(f"more than {MAX_OBJECTS} braces that may begin a JSON object")


def _decoded(text: str) -> tuple[dict[str, Any], str] | None:
    """Return the object at the start of a text, and the text after it."""
    try:
        data, end = _DECODER.raw_decode(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return data, text[end:]


def _strict(token: re.Match[str]) -> str:
    """Return a token of loose JSON as the decoder accepts it."""
    if token["quoted"] is not None:
        return f'"{token["quoted"]}"'
    return "" if token["comma"] else _WORDS.get(token[0], token[0])


def _escaped(text: str) -> str:
    """Double the backslashes of LaTeX that the reply did not escape: those of commands, and then also those of row breaks."""
    if all(len(found[0]) > 1 for found in _BACKSLASH.finditer(text)):
        return text
    broken = _ROW_BREAK.sub(lambda _: r"\\\\", text)
    return _BACKSLASH.sub(lambda found: found[0] if len(found[0]) > 1 else r"\\", broken)


def _value(value: object, kind: type) -> Any:
    """Return a value as `kind`, or None if it is something else. Booleans may be quoted."""
    if kind is bool and isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, kind) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {key.strip().lower(): value for key, value in pairs}
    if len(found) < len(pairs):
        raise _Malformed("a key occurs twice")
    return found


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=str, parse_float=str, parse_constant=str, strict=False
)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _bad(reason: Reason, detail: str) -> BadReply:
    return BadReply(reason=reason, detail=detail[:200])


def _tidy(text: str) -> str:
    """Collapse spaces within lines and runs of empty lines; remove control and format characters."""
    lines = ["".join(filter(_printable, " ".join(line.split()))).strip() for line in text.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _printable(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs")


def _essence(text: str) -> str:
    """Return the text without case, spaces and prose punctuation; mathematical signs are kept."""
    return _PUNCTUATION.sub("", text.casefold())


def _straight(text: str) -> str:
    return text.replace("’", "'")
