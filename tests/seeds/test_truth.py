"""Whether a majority answer is right, where that can be known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pocket import world
from tasks.config import load_config
from tasks.rows import Example, Tier
from tasks.seeds.pocket_source import PocketSource, is_pocket_id, problems
from tasks.seeds.registry import resolve
from tasks.seeds.truth import is_right, majority_is_right, pocket_sources, truth_of
from tests.storage.test_dataset import example

POCKET = pocket_sources(resolve(load_config("pocket")).identity())


def row(problem: str, answer: str | None, majority: str | None, source_id: str) -> Example:
    return replace(example(1), problem=problem, answer=answer, majority_answer=majority, source_id=source_id)


@pytest.mark.parametrize(
    ("answer", "majority", "expected"),
    [("1/2", "0.5", True), ("1/2", "0.4", False), ("1/2", None, False), (None, "1", None)],
)
def test_the_rows_own_answer_decides(answer: str | None, majority: str | None, expected: bool | None) -> None:
    assert majority_is_right(row("Anything.", answer, majority, "5/easy/0"), POCKET) is expected


def test_the_oracle_decides_for_a_pocket_problem_without_an_answer() -> None:
    drawn = world.problem(5, "easy", 0)
    assert majority_is_right(row(drawn.text, None, drawn.answer, "5/easy/0"), POCKET) is True
    assert majority_is_right(row(drawn.text, None, "-12345", "5/easy/0"), POCKET) is False


def test_the_oracle_is_not_called_for_a_row_of_another_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "oracle", lambda _text: pytest.fail("the oracle was called"))
    drawn = world.problem(5, "easy", 0)
    assert majority_is_right(row(drawn.text, None, drawn.answer, "train/17"), POCKET) is None
    like_pocket = row(drawn.text, None, drawn.answer, "5/easy/0")
    assert truth_of(replace(like_pocket, source="mine"), POCKET) is None
    assert truth_of(like_pocket, pocket_sources(resolve(load_config("paper-1.7b")).identity())) is None
    assert truth_of(like_pocket, pocket_sources({"sample": {}})) is None  # the user's own problems
    assert is_right(drawn.answer, drawn.answer)


def test_the_pocket_sources_are_those_of_kind_pocket() -> None:
    assert {"pocket", "pocket-curated"} == POCKET
    assert pocket_sources(resolve(load_config("paper-1.7b")).identity()) == frozenset()


def test_every_pocket_problem_has_a_pocket_id() -> None:
    drawn = list(problems(PocketSource(seed=3, counts=dict.fromkeys(Tier, 2))))
    assert len(drawn) == 2 * len(Tier) and all(is_pocket_id(one.source_id) for one in drawn)
    assert not any(
        is_pocket_id(name) for name in ("17", "train/algebra/12", "3/easy/x", "a/easy/1", "3/easy/1/2")
    )
