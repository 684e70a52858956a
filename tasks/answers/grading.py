"""Grading a response against a gold answer."""

from __future__ import annotations

from tasks.answers.equivalence import DEFAULT_TIMEOUT_S, equivalent
from tasks.answers.extraction import extract_answer
from tasks.answers.notation import normalise


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
