"""Whether two final answers are equivalent.

The rules for the hard kinds (percent, units, equations, intervals, tuples, sets) are in `tasks.answers.meaning`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from tasks.answers.mathverify import verify
from tasks.answers.meaning import both_numeric, comparable, read, same_meaning
from tasks.answers.notation import MAX_LENGTH, normalise

__all__ = ["SymbolicDecisions", "equivalent", "normalise", "simplest_forms_decision", "symbolic_decision"]

DEFAULT_TIMEOUT_S: Final = 5.0


def equivalent(a: str, b: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """Return whether two answers denote the same mathematical object. Symmetric, never raises, thread-safe.

    Tried in order: string equality after `normalise`; the exact rules of `tasks.answers.meaning`, in this process; for
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
        """Return whether two answers are equal, or None if neither the rules nor Math-Verify can decide."""
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
    `tasks.answers.meaning` distinguish. None for words and for notation that the rules do not cover.
    """
    decision = symbolic_decision(first, second, timeout_s=timeout_s)
    if decision is not None or max(len(first), len(second)) > MAX_LENGTH:
        return decision
    a, b = read(normalise(first)), read(normalise(second))
    return False if comparable(a, b) and same_meaning(a, b) is False else None


@lru_cache(maxsize=65536)
def _by_rules(first: str, second: str) -> bool | None:
    return same_meaning(read(first), read(second))


@lru_cache(maxsize=65536)
def _verified(first: str, second: str, timeout_s: float) -> bool | None:
    """Return Math-Verify's verdict, or None after a timeout."""
    return verify(first, second, timeout_s)
