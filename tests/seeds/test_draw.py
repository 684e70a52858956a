"""Drawing from a stream is equivalent to sorting all rows, for any order of the stream."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import xxhash

from tasks.rows import Problem, Reason, Reject, Role, Tier
from tasks.seeds.draw import draw, draw_key
from tasks.seeds.kinds import Loaded, SeedOutcome


@dataclass(frozen=True)
class Row:
    id: str
    good: bool = True
    text: str = "text"


def outcome(row: Row) -> SeedOutcome:
    if not row.good:
        return Reject(problem_id=row.id, stage="aggregate", reason=Reason.PROOF, text=row.text)
    return Problem(
        id=f"{row.id}/{row.text}", text=row.text, tier=Tier.EASY, source="s", source_id=row.id, licence="l",
        role=Role.SEED, root_id=row.id,
    )  # fmt: skip


def drawn(rows: list[Row], target: int | None, seed: int = 0) -> Loaded:
    return draw(rows, key=lambda row: draw_key(seed, row.id), outcome=outcome, target=target)


def by_sorting(rows: list[Row], target: int | None) -> list[SeedOutcome]:
    """Return all rows in the order of their keys, up to the last problem of the target."""
    taken: list[SeedOutcome] = []
    for row in sorted(rows, key=lambda row: xxhash.xxh3_64_intdigest(f"0\x1f{row.id}".encode())):
        if target is not None and sum(isinstance(one, Problem) for one in taken) == target:
            break
        taken.append(outcome(row))
    return taken


@pytest.mark.parametrize("target", [1, 7, 40, 139, 500, None])
def test_the_draw_agrees_with_sorting_all_rows_in_any_order(target: int | None) -> None:
    random.seed(3)
    rows = [Row(f"r{i}", good=random.random() < 0.7) for i in range(200)]
    expected = by_sorting(rows, target)
    for _ in range(10):
        random.shuffle(rows)
        result = drawn(rows, target)
        assert list(result.outcomes) == expected and result.seen == 200
        assert result.problems == sum(isinstance(one, Problem) for one in expected)


def test_the_rows_of_a_smaller_target_are_a_prefix_of_those_of_a_larger_one() -> None:
    rows = [Row(f"r{i}", good=i % 3 > 0) for i in range(90)]
    small, large = drawn(rows, 10).outcomes, drawn(rows, 30).outcomes
    assert large[: len(small)] == small and len(large) > len(small)


def test_another_seed_draws_other_rows() -> None:
    rows = [Row(f"r{i}") for i in range(100)]
    assert set(drawn(rows, 10).outcomes) != set(drawn(rows, 10, seed=1).outcomes)


def test_a_shortfall_is_counted() -> None:
    result = drawn([Row("a"), Row("b", good=False)], 5)
    assert (result.seen, result.problems, result.shortfall) == (2, 1, 4)
    assert drawn([Row("a")], None).shortfall == 0


@pytest.mark.parametrize("target", [1, 2, None])
def test_a_duplicate_id_gives_one_problem_and_one_reject_in_any_order(target: int | None) -> None:
    rows = [Row("a", text="x"), Row("a", text="y"), Row("a", good=False, text="w"), Row("a", text="x")]
    results = set()
    for seed in range(24):
        random.seed(seed)
        random.shuffle(rows)
        results.add(drawn(rows, target).outcomes)
    (outcomes,) = results
    assert isinstance(outcomes[0], Problem) and outcomes[0].text == "x"
    reasons = [one.reason for one in outcomes if isinstance(one, Reject)]
    assert sorted(reasons) == [Reason.DUPLICATE_ID, Reason.EXACT_DUPLICATE, Reason.PROOF]


def test_only_rows_that_can_still_be_selected_are_evaluated() -> None:
    rows, asked = [Row(f"r{i}") for i in range(10_000)], []

    def watched(row: Row) -> SeedOutcome:
        asked.append(row)
        return outcome(row)

    draw(rows, key=lambda row: draw_key(0, row.id), outcome=watched, target=10)
    # 10 (1 + H_10000 - H_10) = 10 (1 + 9.79 - 2.93) = 79 expected
    assert 10 <= len(asked) < 200
