r"""Final answers: finding one in a response, and deciding whether two are the same.

Rules for the hard kinds (percent, units, equations, intervals, tuples, sets) are stated in `tasks.core.meaning`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from tasks.core.mathverify import verify
from tasks.core.meaning import both_numeric, comparable, is_numeric, read, same_meaning
from tasks.core.notation import MAX_LENGTH, normalise

__all__ = [
    "SymbolicDecisions", "answer_span", "equivalent", "extract_answer", "grade", "is_closed_form_number", "normalise",
    "simplest_forms_decision", "symbolic_decision",
]  # fmt: skip

DEFAULT_TIMEOUT_S: Final = 5.0

_BOX: Final = re.compile(r"\\boxed\s*\{")
_BRACES: Final = re.compile(r"\\.|[{}]", re.DOTALL)


def extract_answer(response: str) -> str | None:
    r"""Content of the last `\boxed{...}` after the last `</think>`, stripped.

    None when there is none, when it is empty or never closes (a response cut off inside its box has no answer), or when
    an opened `<think>` never closes. Of nested boxes the innermost counts. Linear time for any input.
    """
    span = answer_span(response)
    return None if span is None else response[slice(*span)]


def answer_span(response: str) -> tuple[int, int] | None:
    """Where `extract_answer` finds the answer: its first character and the one behind its last."""
    start = response.rfind("</think>") + 1
    if response.find("<think>", start) >= 0:
        return None
    begin = max((box.end() for box in _BOX.finditer(response, start)), default=None)
    if begin is None:
        return None
    depth = 1
    for match in _BRACES.finditer(response, begin):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            content = response[begin : match.start()]
            first = begin + len(content) - len(content.lstrip())
            return (first, first + len(content.strip())) if content.strip() else None
    return None


def equivalent(a: str, b: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """Whether two answers denote the same mathematical object. Symmetric, never raises, safe in any thread.

    In turn: equal strings after `normalise`; our own rules, exact and in this process; for notation that these do not
    know (matrices, sums, ...) Math-Verify in both directions, in a worker process, for at most `timeout_s` seconds.
    Answers of more than 1,000 characters are compared as strings only.
    """
    first, second = sorted((normalise(a), normalise(b)))
    if first == second:
        return True
    if max(len(first), len(second)) > MAX_LENGTH:
        return False
    same = _by_rules(first, second)
    return bool(_verified(first, second, timeout_s) if same is None else same)


def is_closed_form_number(answer: str) -> bool:
    """Whether the answer is one number without variables or unit: integer, decimal, percent, fraction, root, multiple of pi."""
    text = normalise(answer)
    return len(text) <= MAX_LENGTH and is_numeric(read(text))


def symbolic_decision(a: str, b: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool | None:
    """True if equivalent; False when both are closed-form numbers, or pairs, sets or intervals made of them; else None.

    None means that a judge has to decide: units that one side lacks, different kinds of answer, expressions, words.
    """
    return SymbolicDecisions(timeout_s)(a, b)


class SymbolicDecisions:
    """`symbolic_decision` for the answers to one problem. Two answers over which Math-Verify's time ran out do not go there
    again, only to our own rules, so that a poisonous answer costs its problem `timeout_s` once."""

    def __init__(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self._slow: set[str] = set()

    def __call__(self, a: str, b: str) -> bool | None:
        first, second = sorted((normalise(a), normalise(b)))
        if first == second:
            return True
        if max(len(first), len(second)) > MAX_LENGTH:
            return None
        same = _by_rules(first, second)
        if same is None and self._slow.isdisjoint((first, second)):
            same = _verified(first, second, self.timeout_s)
            self._slow |= {first, second} if same is None else set()
        return True if same else False if both_numeric(read(first), read(second)) else None


def simplest_forms_decision(first: str, second: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool | None:
    """As `symbolic_decision`, for two answers that somebody has already brought to their simplest form: then expressions
    in the same variables and collections, too, are different when they can be told apart. None: words, other notation.
    """
    decision = symbolic_decision(first, second, timeout_s=timeout_s)
    if decision is not None or max(len(first), len(second)) > MAX_LENGTH:
        return decision
    a, b = read(normalise(first)), read(normalise(second))
    return False if comparable(a, b) and same_meaning(a, b) is False else None


def grade(response: str, gold: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """Whether the response's boxed answer is the gold answer.

    A percent sign on one side only may be left out here, since the question asked for the percentage: 25% is right both
    for 25 and for 0.25.
    """
    answer = extract_answer(response)
    if answer is None:
        return False
    if equivalent(answer, gold, timeout_s=timeout_s):
        return True
    first, second = normalise(answer), normalise(gold)
    if first.endswith("%") == second.endswith("%"):
        return False
    return equivalent(first.removesuffix("%"), second.removesuffix("%"), timeout_s=timeout_s)


@lru_cache(maxsize=65536)
def _by_rules(first: str, second: str) -> bool | None:
    return same_meaning(read(first), read(second))


@lru_cache(maxsize=65536)
def _verified(first: str, second: str, timeout_s: float) -> bool | None:
    """None: no verdict in time."""
    return verify(first, second, timeout_s)
