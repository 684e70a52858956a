"""What is known about the right answer of a row: its own ground truth, or what the pocket world's oracle works out."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.answers import equivalent
from tasks.core.rows import Example, Response
from tasks.core.validation import Checked, measures
from tasks.seeds import pocket

__all__ = ["check", "is_right", "majority_is_right", "truth_of"]


def truth_of(problem: str, answer: str | None) -> str | None:
    """The right answer: `answer`, the row's own ground truth, where it has one, else the oracle's; None where unknown."""
    return answer if answer is not None else pocket.oracle(problem)


def is_right(given: str | None, truth: str) -> bool:
    """Whether an answer, of one sample or of a majority, is the truth. No answer is a wrong one."""
    return given is not None and equivalent(given, truth)


def majority_is_right(problem: str, answer: str | None, majority: str | None) -> bool | None:
    """Whether the majority answer is right; None where the truth is unknown. No majority answer is a wrong one."""
    truth = truth_of(problem, answer)
    return None if truth is None else is_right(majority, truth)


def check(row: Example, responses: Sequence[Response]) -> Checked | None:
    """An annotated row beside its truth, and each of its samples by the same rule; None where the truth is unknown."""
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
