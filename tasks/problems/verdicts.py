"""Parsing of a model's raw reply into a verdict or an evolved problem, or a reason for rejecting it.

Replies are untrusted: their length is checked before they are parsed, and parsing never raises.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final

from tasks.answers.equivalence import simplest_forms_decision
from tasks.rows import Reason

MAX_REPLY_CHARS: Final = 20_000
_OPENING_CHARS: Final = 40  # later in the text "I cannot" may be part of the problem itself


@dataclass(frozen=True, slots=True, kw_only=True)
class BadReply:
    """A rejected reply. `detail` describes the defect in a few words."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityVerdict:
    """The five criteria of the quality judge."""

    clear: bool
    complete: bool
    consistent: bool
    single_answer: bool
    nontrivial: bool

    @property
    def passed(self) -> bool:
        """Whether all five criteria are met."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the criteria that are not met."""
        return tuple(name for name in QUALITY_CRITERIA if not getattr(self, name))


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


QUALITY_CRITERIA: Final = tuple(field.name for field in fields(QualityVerdict))
_EQUIVALENCE_TYPES: Final[dict[str, type]] = {"first": str, "second": str, "equivalent": bool}

_FENCE: Final = re.compile(r"```(?:json)?[ \t]*\n(.*)\n?```", re.DOTALL | re.IGNORECASE)
_TEXT: Final = r"(?:(?!</?evolved>).)*"
_BLOCK: Final = re.compile(
    rf"(?P<before>{_TEXT})<evolved>(?P<problem>{_TEXT})</evolved>(?P<after>{_TEXT})", re.DOTALL
)
_REFUSAL: Final = re.compile(
    r"\b(?:I(?: cannot| can't| can not| am unable|'m unable| won't| will not| am sorry|'m sorry)|as an AI|as a language model"
    r"|sorry, (?:but )?I|I apologi[sz]e)\b",
    re.IGNORECASE,
)
_SOLUTION: Final = re.compile(r"\\boxed|\b(?:solution|answer)[*_ \t]*:", re.IGNORECASE)
_PUNCTUATION: Final = re.compile(r"(?<!\d)[.,]|[.,](?!\d)|[;:?'\"`$\s]+")


class _Malformed(ValueError):
    """The text is JSON, but in a form that is not accepted."""


def parse_quality(
    reply: str, finish_reason: str, *, max_chars: int = MAX_REPLY_CHARS
) -> QualityVerdict | BadReply:
    """Parse the quality judge's reply: a JSON object of exactly the five criteria, each true or false.

    Surrounding white space, a code fence and preceding thinking are accepted; any other text is not.
    """
    fields = _json_fields(reply, finish_reason, dict.fromkeys(QUALITY_CRITERIA, bool), max_chars)
    return fields if isinstance(fields, BadReply) else QualityVerdict(**fields)


def parse_equivalence(
    reply: str, finish_reason: str, *, max_chars: int = MAX_REPLY_CHARS
) -> EquivalenceVerdict | BadReply:
    """Parse the equivalence judge's reply: a JSON object of exactly `first`, `second` (strings) and `equivalent` (bool)."""
    fields = _json_fields(reply, finish_reason, _EQUIVALENCE_TYPES, max_chars)
    return fields if isinstance(fields, BadReply) else EquivalenceVerdict(**fields)


def parse_evolution(
    reply: str, finish_reason: str, parent: str, max_chars: int = MAX_REPLY_CHARS
) -> str | BadReply:
    """Parse the evolved problem: the text of the reply's `<evolved>` block, without control characters or extra white space.

    Rejected are replies without exactly one block, refusals, copies of the parent (ignoring case, spaces and
    punctuation), and texts that contain a solution.
    """
    text = _bounded(reply, finish_reason, max_chars)
    if isinstance(text, BadReply):
        return text
    block = _BLOCK.fullmatch(text)
    refusal = _REFUSAL.search(_straight(block["before"] + "\n" + block["after"] if block else text))
    if refusal:
        return _bad(Reason.REFUSAL, refusal[0])
    if block is None:
        return _bad(
            Reason.MALFORMED_REPLY,
            f"{text.count('<evolved>')} <evolved> and {text.count('</evolved>')} </evolved> tags",
        )
    return _checked_problem(_tidy(block["problem"]), parent)


def _checked_problem(problem: str, parent: str) -> str | BadReply:
    if not problem:
        return _bad(Reason.MALFORMED_REPLY, "the <evolved> block is empty")
    refusal = _REFUSAL.search(_straight(problem)[:_OPENING_CHARS])
    if refusal:
        return _bad(Reason.REFUSAL, refusal[0])
    if _essence(problem) == _essence(parent):
        return _bad(Reason.ECHO, "the parent's text again")
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


def _json_fields(
    reply: str, finish_reason: str, types: dict[str, type], max_chars: int
) -> dict[str, Any] | BadReply:
    """Parse the fields of a JSON object with exactly the keys and types of `types`."""
    text = _bounded(reply, finish_reason, max_chars)
    if isinstance(text, BadReply):
        return text
    fenced = _FENCE.fullmatch(text)
    try:
        data = json.loads(
            fenced[1] if fenced else text, object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except _Malformed as error:
        return _bad(Reason.MALFORMED_REPLY, str(error))
    except ValueError as error:  # JSONDecodeError, and integers with too many digits
        return _bad(Reason.MALFORMED_REPLY, f"no JSON: {error}")
    except RecursionError:
        return _bad(Reason.MALFORMED_REPLY, "JSON nested too deeply")
    if not isinstance(data, dict):
        return _bad(Reason.MALFORMED_REPLY, f"JSON, but no object: {text[:60]}")
    if set(data) != set(types):
        return _bad(Reason.MALFORMED_REPLY, f"keys {_listed(data)} instead of {_listed(types)}")
    wrong = [key for key, kind in types.items() if type(data[key]) is not kind]
    if wrong:
        return _bad(Reason.MALFORMED_REPLY, f"{wrong[0]} must be of type {types[wrong[0]].__name__}")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Malformed("a key occurs twice")
    return found


def _no_constant(name: str) -> None:
    raise _Malformed(f"{name} is no JSON")


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
