"""The tables of a run at work, from counts that were added up by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.evaluate_settings import Prices
from tasks.llm.chat import Usage
from tasks.runtime.live_tables import (
    RoleCost,
    ShardFacts,
    count_so_far,
    judge_table,
    price,
    projection,
    role_row,
    strategy_table,
    total_usage,
)


def shard(rows: int, *, failed: dict[str, int] | None = None, verdicts: int = 0, **kept: int) -> ShardFacts:
    """A shard of `rows` rows, of which the named strategies are kept; the others are echoes."""
    left = rows - sum(kept.values())
    counts = {"in": rows, "kept": sum(kept.values()), "rejected": {"echo": left} if left else {}}
    return ShardFacts(counts=counts, strategies=kept, verdicts=verdicts, failed=failed or {})


def test_the_counts_so_far_are_those_of_the_finished_shards() -> None:
    found = count_so_far("rules", {1: shard(5, apply=2), 0: shard(4, apply=4)})
    assert (found.rows_in, found.kept, dict(found.rejected)) == (9, 6, {"echo": 3})
    empty = count_so_far("rules", {})
    assert (empty.rows_in, empty.kept, dict(empty.rejected)) == (0, 0, {})


def test_the_rate_of_a_strategy_counts_only_the_shards_that_the_judge_has_decided_about() -> None:
    stages = {
        "evolve-1": {1: shard(10, apply=6, harder=2), 0: shard(10, apply=4, harder=4)},
        "evolve-2": {0: shard(10, apply=8)},
        "rules": {0: shard(8, apply=4, harder=3), 1: shard(8, apply=5, harder=2), 2: shard(8, apply=8)},
        "deduplicate": {0: shard(7, apply=3, harder=3), 1: shard(7, apply=5)},
        "judge": {0: shard(6, apply=3, harder=1)},
    }
    apply = {
        "strategy": "apply", "evolved": "18", "kept by rules": "17", "kept by deduplicate": "8", "kept by judge": "3",
        "accepted": "75.0%",
    }  # fmt: skip
    harder = {
        "strategy": "harder", "evolved": "6", "kept by rules": "5", "kept by deduplicate": "3", "kept by judge": "1",
        "accepted": "25.0%",
    }  # fmt: skip
    assert strategy_table(stages) == [harder, apply]
    before = strategy_table({"evolve-1": stages["evolve-1"]})
    assert [(row["strategy"], row["evolved"], row["kept by judge"], row["accepted"]) for row in before] == [
        ("harder", "6", "", ""),
        ("apply", "10", "", ""),
    ]
    assert strategy_table({}) == []


def test_a_criterion_has_the_rows_rejected_for_it_and_the_verdicts_in_which_it_does_not_hold() -> None:
    counts: dict[str, Any] = {
        "in": 10, "kept": 5, "rejected": {"not_well_formed": 2, "not_closed_form": 1, "model_error": 2},
    }  # fmt: skip
    facts = ShardFacts(counts=counts, verdicts=8, failed={"well_formed": 2, "closed_form": 3})
    table = {row["reason"]: row for row in judge_table({0: facts, 1: facts})}
    assert next(iter(table)) == "not well formed" and len(table) == 6
    assert table["not well formed"] == {
        "reason": "not well formed", "rejected for it": "4", "share of judged": "20.0%", "does not hold": "4",
        "share of verdicts": "25.0%",
    }  # fmt: skip
    assert (table["not closed form"]["rejected for it"], table["not closed form"]["share of verdicts"]) == (
        "2",
        "37.5%",
    )
    assert table["not multi step"]["rejected for it"] == "0"
    assert (table["model error"]["rejected for it"], table["model error"]["does not hold"]) == ("4", "")


@pytest.mark.parametrize(
    ("completions", "cached", "worked", "left", "factor"),
    [
        (20, 0, 20, 60, 4.0),  # one request a row: 60 are left
        (40, 0, 20, 60, 4.0),  # two requests a row: 120 are left
        (10, 10, 20, 60, 7.0),  # half came from the ledger, of the rest nothing does
        (20, 0, 20, 0, 1.0),
        (0, 20, 20, 60, None),
        (0, 0, 0, 0, 1.0),
    ],
)
def test_the_projection_is_for_the_rows_that_are_left(
    completions: int, cached: int, worked: int, left: int, factor: float | None
) -> None:
    assert projection(Usage(completions=completions, cached=cached), worked, left) == factor


def test_a_role_has_tokens_and_with_prices_a_cost() -> None:
    usage = Usage(completions=20, cached=5, prompt_tokens=3_000_000, completion_tokens=500_000)
    cost = RoleCost(role="quality_judge", model="big|model", usage=usage, worked=25, left=75)
    row = role_row(cost)
    assert row["what"] == r"quality judge, this run (big\|model)"
    assert (row["requests"], row["from the ledger"]) == ("20", "5")
    assert (row["prompt tokens"], row["output tokens"]) == ("3,000,000", "500,000")
    assert row["projected tokens"] == "16,625,000"  # 3.5 million, and 75 requests of 175,000
    assert (row["cost"], row["projected cost"]) == ("", "")
    priced = role_row(RoleCost(**{**_values(cost), "prices": Prices(prompt=2.0, output=10.0)}))
    assert (priced["cost"], priced["projected cost"]) == ("11.00", "52.25")
    offline = role_row(RoleCost(**{**_values(cost), "counts_prompts": False}))
    assert offline["prompt tokens"] == "" and offline["output tokens"] == "500,000"
    assert price(Prices(prompt=1.0, output=3.0), 500_000, 2_000_000) == 6.5


def _values(cost: RoleCost) -> dict[str, Any]:
    return {name: getattr(cost, name) for name in RoleCost.__slots__}


def test_usages_are_added() -> None:
    assert total_usage([Usage(attempts=1, prompt_tokens=2), Usage(attempts=4, cached=1)]) == Usage(
        attempts=5, prompt_tokens=2, cached=1
    )
    assert total_usage([]) == Usage()
