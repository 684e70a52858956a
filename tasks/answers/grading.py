"""Grading a response against a gold answer."""

from __future__ import annotations

from typing import Final

from tasks.answers.compare import within
from tasks.answers.equivalence import DEFAULT_TIMEOUT_S, MAX_VERIFIED, second_opinion, verdict
from tasks.answers.extraction import boxes, extract_answer
from tasks.answers.mathverify import verify
from tasks.answers.notation import MAX_LENGTH, normalise
from tasks.answers.proof import exact_form
from tasks.answers.readings import read
from tasks.answers.tree import Items, Value
from tasks.answers.verdicts import Outcome

ROUNDED_DIGITS: Final = 3
"""A gold answer with at least this many significant digits may be the rounded value of an exact answer."""


def grade(response: str, gold: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """Return whether the response's boxed answer matches the gold answer.

    If the gold answer is a list, the last boxes of the response, as many as it has items, may be one, too.
    """
    answer = extract_answer(response)
    if answer is None:
        return False
    return matches(answer, gold, timeout_s=timeout_s) or _boxes_match(response, gold)


def matches(answer: str, gold: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """Return whether an answer matches the gold answer.

    More lenient than `equivalent`: a percent sign or names on one side only are ignored, and a gold answer that is a
    decimal may be the rounded value of an exact answer.
    """
    found = verdict(answer, gold)
    if found.outcome is Outcome.EQUAL:
        return True
    if found.outcome is Outcome.UNDECIDED:
        return second_opinion(answer, gold, timeout_s) is True
    return _is_rounded(answer, gold)


def math_verify_grade(response: str, gold: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """Return Math-Verify's grade of the response's boxed answer, which papers report; an answer that it cannot read is wrong."""
    answer = extract_answer(response)
    if answer is None or max(len(answer), len(gold)) > MAX_VERIFIED:
        return False
    return answer == gold or verify(answer, gold, timeout_s) is True


def _boxes_match(response: str, gold: str) -> bool:
    """Compare the last boxes of a response with a gold answer that is a list."""
    text = normalise(gold)
    if len(text) > MAX_LENGTH:
        return False
    listed = next(
        (
            one
            for one in read(text).readings
            if (isinstance(one, Items) and one.kind != "tuple") or _is_record(one)
        ),
        None,
    )
    if not isinstance(listed, Items) or not 2 <= len(listed.items) <= 20:
        return False
    found = boxes(response)
    if len(found) < len(listed.items):
        return False
    last = [response[start:end] for start, end in found[-len(listed.items) :]]
    return verdict(", ".join(last), gold).outcome is Outcome.EQUAL


def _is_record(reading: object) -> bool:
    return isinstance(reading, Items) and reading.brackets == "names"


def _is_rounded(answer: str, gold: str) -> bool:
    """Return whether the gold answer is a decimal to which an exact, not decimal answer rounds."""
    first, second = normalise(answer), normalise(gold)
    if max(len(first), len(second)) > MAX_LENGTH:
        return False
    exact, rounded = read(first).readings[0], read(second).readings[0]
    if not isinstance(exact, Value) or not isinstance(rounded, Value):
        return False
    places = rounded.expression.places
    if (
        not places
        or exact.expression.places is not None
        or exact.expression.variables
        or exact.percent != rounded.percent
    ):
        return False
    value = rounded.expression.node.args[0]
    digits = len(str(abs(value.numerator * 10**places // value.denominator)))
    if digits < ROUNDED_DIGITS or _terminates(exact):
        return False
    return within(exact.expression, value, type(value)(1, 2 * 10**places))


def _terminates(value: Value) -> bool:
    """Return whether a value is a decimal of finitely many places, such as 23/50: it needs no rounding."""
    form = exact_form(value.expression)
    found = None if form is None else form.rational
    if found is None:
        return False
    rest = int(found.q)
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
