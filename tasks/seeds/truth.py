"""What is known about the right answer of a row: its own ground truth, or what the pocket world's oracle works out."""

from __future__ import annotations

from tasks.core.answers import equivalent
from tasks.seeds import pocket

__all__ = ["majority_is_right"]


def majority_is_right(problem: str, answer: str | None, majority: str | None) -> bool | None:
    """Whether the majority answer is right; None where the truth is unknown. No majority answer is a wrong one."""
    truth = answer if answer is not None else pocket.oracle(problem)
    if truth is None:
        return None
    return majority is not None and equivalent(majority, truth)
