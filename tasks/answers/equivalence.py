"""Whether two final answers are equivalent: one function for clustering and grading.

`verdict` decides by reading and proof (see docs/answers.md). `equivalent` asks Math-Verify about notation that the grammar
does not cover; its opinion is never certain.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from tasks.answers.compare import compare_answers
from tasks.answers.mathverify import verify
from tasks.answers.notation import MAX_LENGTH, normalise
from tasks.answers.readings import read
from tasks.answers.tree import Opaque
from tasks.answers.verdicts import UNDECIDED, Basis, Outcome, Verdict, different, equal

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "Outcome",
    "Verdict",
    "equivalent",
    "normalise",
    "second_opinion",
    "simplest_forms_decision",
    "verdict",
]

DEFAULT_TIMEOUT_S: Final = 5.0
MAX_VERIFIED: Final = 400
"""Longer answers (in characters) are not sent to Math-Verify."""


def verdict(a: str, b: str) -> Verdict:
    """Return the verdict on two answers, without Math-Verify. Symmetric, never raises, thread-safe.

    Its cost is bounded by counting operations, so that it is the same on a busy machine.
    """
    first, second = sorted((normalise(a), normalise(b)))
    if first == second:
        return equal("the same spelling")
    if not first or max(len(first), len(second)) > MAX_LENGTH:
        return different("different texts", Basis.CONVENTION)
    return _verdict(first, second)


@lru_cache(maxsize=131072)
def _verdict(first: str, second: str) -> Verdict:
    try:
        return compare_answers(read(first), read(second))
    except (RecursionError, ArithmeticError, ValueError, MemoryError):  # beyond the limits of Python or flint
        return UNDECIDED


def equivalent(a: str, b: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """Return whether two answers denote the same mathematical object. Symmetric, never raises, thread-safe.

    Notation that the grammar does not cover goes to Math-Verify, in both directions, in a worker process that may use
    `timeout_s` seconds of CPU; answers that it cannot decide in that time are not equivalent.
    """
    found = verdict(a, b)
    if found.outcome is not Outcome.UNDECIDED:
        return found.equal
    return second_opinion(a, b, timeout_s) is True


def second_opinion(a: str, b: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool | None:
    """Return Math-Verify's verdict on two answers one of which the grammar does not cover; None if it has none.

    False without asking it if the grammar covers both, or if one of them is too long.
    """
    first, second = sorted((normalise(a), normalise(b)))
    if max(len(first), len(second)) > MAX_VERIFIED:
        return False
    if not any(isinstance(read(one).readings[0], Opaque) for one in (first, second)):
        return False
    return _verified(first, second, timeout_s)


@lru_cache(maxsize=65536)
def _verified(first: str, second: str, timeout_s: float) -> bool | None:
    return verify(first, second, timeout_s)


def simplest_forms_decision(first: str, second: str) -> bool | None:
    """Decide whether two answers in simplest form are equivalent; None for words and for notation outside the grammar."""
    found = verdict(first, second)
    if found.outcome is Outcome.UNDECIDED or (
        found.outcome is Outcome.DIFFERENT and found.rule in _NO_DECISION
    ):
        return None
    return found.equal


_NO_DECISION: Final = frozenset(
    ("different texts", "different words", "different kinds of answer", "different unknowns")
)
