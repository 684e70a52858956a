"""Drift of weights, compared with hand-computed numbers."""

from __future__ import annotations

import math

import pytest

from tasks.rows import Tier
from tasks.uncertainty.annotation import Cause
from tasks.uncertainty.drift import Move, by_tier, correlation, drift, largest_movers


def move(name: str, old: float, new: float, tier: Tier = Tier.EASY, **more: object) -> Move:
    values: dict[str, object] = {"old_answer": "1", "new_answer": "1", **more}
    return Move(
        id=name, problem=f"problem {name}", tier=tier, cause=Cause.TEACHER, old_weight=old, new_weight=new,
        old_entropy=1 - old, new_entropy=1 - new, **values,  # type: ignore[arg-type]
    )  # fmt: skip


MOVES = (
    move("a", 0.5, 0.75, old_right=True, new_right=True),  # +0.25
    move("b", 1.0, 0.5, Tier.HARD, new_answer="2", old_right=True, new_right=False),  # -0.5
    move("c", 0.25, 0.25),  # 0, no ground truth
    move("d", 0.0, 0.0625, old_right=False, new_right=True),  # +0.0625
)


def test_the_statistics_agree_with_a_hand_computation() -> None:
    found = drift(MOVES)
    assert found is not None
    assert (found.rows, found.up, found.down, found.same, found.far) == (4, 2, 1, 1, 2)
    assert found.old_mean == 1.75 / 4 and found.new_mean == 1.5625 / 4
    assert found.mean_change == pytest.approx(-0.1875 / 4, abs=1e-15)  # 0.25 - 0.5 + 0 + 0.0625
    assert found.mean_absolute == 0.8125 / 4
    assert found.median_absolute == (0.0625 + 0.25) / 2 and found.largest == 0.5
    assert found.answers_changed == 1
    assert (found.with_truth, found.old_right, found.new_right) == (3, 2, 2)
    # deviations from the means 0.4375 and 0.390625: products sum to 0.19140625, squares to 0.546875 and 0.268554...
    old, new = [0.5, 1.0, 0.25, 0.0], [0.75, 0.5, 0.25, 0.0625]
    products = sum((x - 0.4375) * (y - 0.390625) for x, y in zip(old, new, strict=True))
    squares = sum((x - 0.4375) ** 2 for x in old) * sum((y - 0.390625) ** 2 for y in new)
    assert found.correlation == pytest.approx(products / math.sqrt(squares), abs=1e-12)


def test_tiers_are_counted_separately_and_empty_ones_omitted() -> None:
    found = by_tier(MOVES)
    assert list(found) == [Tier.EASY, Tier.HARD]
    assert (found[Tier.EASY].rows, found[Tier.HARD].rows) == (3, 1)
    assert found[Tier.HARD].mean_change == -0.5 and found[Tier.HARD].correlation is None


def test_the_largest_movers_come_first_and_unchanged_rows_are_omitted() -> None:
    assert [one.id for one in largest_movers(MOVES, 10)] == ["b", "a", "d"]
    assert [one.id for one in largest_movers(MOVES, 1)] == ["b"]
    tied = [move("z", 0.5, 0.25), move("y", 0.25, 0.5)]
    assert [one.id for one in largest_movers(tied, 2)] == ["y", "z"]


def test_no_moves_give_none_and_a_constant_side_has_no_correlation() -> None:
    assert drift([]) is None
    assert correlation([0.5, 0.5], [0.1, 0.2]) is None and correlation([0.5], [0.5]) is None
    assert correlation([0.0, 0.5, 1.0], [1.0, 0.5, 0.0]) == pytest.approx(-1.0)
