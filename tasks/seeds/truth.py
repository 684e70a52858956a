"""The correct answer of a row: its ground truth, or the answer of the pocket world's oracle."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.answers import equivalent
from tasks.core.rows import Example, Response
from tasks.core.validation import Checked, measures
from tasks.seeds import pocket

__all__ = ["check", "is_right", "majority_is_right", "truth_of"]


def truth_of(problem: str, answer: str | None) -> str | None:
    """Return `answer`, the row's ground truth, if given, else the oracle's answer; None if unknown."""
    return answer if answer is not None else pocket.oracle(problem)


def is_right(given: str | None, truth: str) -> bool:
    """Return whether the answer of a sample or a majority is correct. A missing answer is wrong."""
    return given is not None and equivalent(given, truth)


def majority_is_right(problem: str, answer: str | None, majority: str | None) -> bool | None:
    """Return whether the majority answer is correct; None without a ground truth. A missing majority answer is wrong."""
    truth = truth_of(problem, answer)
    return None if truth is None else is_right(majority, truth)


def check(row: Example, responses: Sequence[Response]) -> Checked | None:
    """Compare an annotated row and each of its samples with the ground truth; None if it is unknown."""
    truth = truth_of(row.problem, row.answer)
    if truth is None:
        return None
    return Checked(
        tier=row.tier.value,
        weight=row.weight,
        scores=measures(row),
        majority_right=is_right(row.majority_answer, truth),
        right=sum(is_right(response.answer, truth) for response in responses),
        samples=len(responses),
    )
