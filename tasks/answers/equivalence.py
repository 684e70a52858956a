r"""Final answers: extraction from a response, equivalence of two answers, grading.

The rules for percentages, units, equations, intervals, tuples and sets are documented in `tasks.core.meaning`.
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
    r"""Return the content of the last `\boxed{...}` after the last `</think>`, stripped.

    Returns None if there is no box, if the box is empty or not closed (truncated response), or if a `<think>` is not
    closed. Of nested boxes the innermost is used. Linear time for any input.
    """
    span = answer_span(response)
    return None if span is None else response[slice(*span)]


def answer_span(response: str) -> tuple[int, int] | None:
    """Return the (start, end) character offsets of the answer that `extract_answer` returns; `end` is exclusive."""
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
    """Return whether two answers denote the same mathematical object. Symmetric, never raises, thread-safe.

    Tried in order: string equality after `normalise`; the exact rules of `tasks.core.meaning`, in this process; for
    notation that these do not cover (matrices, sums, ...), Math-Verify in both directions, in a worker process, for at
    most `timeout_s` seconds. Answers longer than 1,000 characters are compared as strings only.
    """
    first, second = sorted((normalise(a), normalise(b)))
    if first == second:
        return True
    if max(len(first), len(second)) > MAX_LENGTH:
        return False
    same = _by_rules(first, second)
    return bool(_verified(first, second, timeout_s) if same is None else same)


def is_closed_form_number(answer: str) -> bool:
    """Return whether the answer is a single closed-form number without variables or unit.

    Examples: an integer, decimal, percentage, fraction, root or multiple of pi.
    """
    text = normalise(answer)
    return len(text) <= MAX_LENGTH and is_numeric(read(text))


def symbolic_decision(a: str, b: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool | None:
    """Decide whether two answers are equivalent without a judge; None if the judge has to decide.

    True if they are equivalent. False if they are not and both are closed-form numbers, or pairs, sets or intervals of
    such numbers. None otherwise: a unit on one side only, different kinds of answer, expressions, words.
    """
    return SymbolicDecisions(timeout_s)(a, b)


class SymbolicDecisions:
    """`symbolic_decision` for all answers to one problem.

    If Math-Verify times out on a pair, neither answer is sent to it again (only the in-process rules apply), so that a
    pathological answer costs its problem `timeout_s` once.
    """

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
    """Like `symbolic_decision`, for two answers that are already in simplest form.

    Here False is also returned for two expressions in the same variables, or two collections, that the rules of
    `tasks.core.meaning` distinguish. None for words and for notation that the rules do not cover.
    """
    decision = symbolic_decision(first, second, timeout_s=timeout_s)
    if decision is not None or max(len(first), len(second)) > MAX_LENGTH:
        return decision
    a, b = read(normalise(first)), read(normalise(second))
    return False if comparable(a, b) and same_meaning(a, b) is False else None


def grade(response: str, gold: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """Return whether the response's boxed answer is equivalent to the gold answer.

    More lenient than `equivalent` in one case: a percent sign on one side only is ignored, because a question may ask for
    a percentage. 25% is accepted for both 25 and 0.25.
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
    """Return Math-Verify's verdict, or None after a timeout."""
    return verify(first, second, timeout_s)
