"""Whether a majority answer is correct, if that can be determined."""

from __future__ import annotations

import pytest

from tasks.seeds import pocket
from tasks.seeds.truth import majority_is_right


@pytest.mark.parametrize(
    ("problem", "answer", "majority", "expected"),
    [
        ("Anything.", "1/2", "0.5", True),
        ("Anything.", "1/2", "0.4", False),
        ("Anything.", "1/2", None, False),
        ("Anything.", None, "1", None),
    ],
)
def test_the_rows_own_answer_decides(
    problem: str, answer: str | None, majority: str | None, expected: bool | None
) -> None:
    assert majority_is_right(problem, answer, majority) is expected


def test_the_oracle_decides_if_the_row_has_no_answer() -> None:
    drawn = pocket.problem(5, "easy", 0)
    assert majority_is_right(drawn.text, None, drawn.answer) is True
    assert majority_is_right(drawn.text, None, "-12345") is False
