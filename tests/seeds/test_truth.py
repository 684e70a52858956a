"""Whether a majority answer is right, where that can be known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pocket import world
from tasks.rows import Example, Tier
from tasks.seeds.pocket_source import PocketSource, is_pocket_id, problems
from tasks.seeds.truth import is_right, majority_is_right
from tests.storage.test_dataset import example


def row(problem: str, answer: str | None, majority: str | None, source_id: str) -> Example:
    return replace(example(1), problem=problem, answer=answer, majority_answer=majority, source_id=source_id)


@pytest.mark.parametrize(
    ("answer", "majority", "expected"),
    [("1/2", "0.5", True), ("1/2", "0.4", False), ("1/2", None, False), (None, "1", None)],
)
def test_the_rows_own_answer_decides(answer: str | None, majority: str | None, expected: bool | None) -> None:
    assert majority_is_right(row("Anything.", answer, majority, "5/easy/0")) is expected


def test_the_oracle_decides_for_a_pocket_problem_without_an_answer() -> None:
    drawn = world.problem(5, "easy", 0)
    assert majority_is_right(row(drawn.text, None, drawn.answer, "5/easy/0")) is True
    assert majority_is_right(row(drawn.text, None, "-12345", "5/easy/0")) is False


def test_the_oracle_is_not_called_for_a_row_of_another_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "oracle", lambda _text: pytest.fail("the oracle was called"))
    drawn = world.problem(5, "easy", 0)
    assert majority_is_right(row(drawn.text, None, drawn.answer, "train/17")) is None
    assert is_right(drawn.answer, drawn.answer)


def test_every_pocket_problem_has_a_pocket_id() -> None:
    drawn = list(problems(PocketSource(seed=3, counts=dict.fromkeys(Tier, 2))))
    assert len(drawn) == 2 * len(Tier) and all(is_pocket_id(one.source_id) for one in drawn)
    assert not any(
        is_pocket_id(name) for name in ("17", "train/algebra/12", "3/easy/x", "a/easy/1", "3/easy/1/2")
    )
