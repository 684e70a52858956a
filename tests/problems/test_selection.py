"""Selection: in the proportions of the supply or levelled, capped per root, and independent of the input order."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from tasks.config import SelectSettings
from tasks.errors import UserError
from tasks.problems.selection import Candidate, select, split_curated
from tasks.rows import Strategy, Tier


def pool(counts: dict[tuple[Tier, Strategy], int], roots: int | None = None) -> list[Candidate]:
    """Return `counts` candidates of each stratum, with `roots` shared roots per tier or one root each."""
    return [
        Candidate(
            id=f"{tier}-{strategy}-{index}",
            tier=tier,
            strategy=strategy,
            root_id=f"{tier}-{index % roots}" if roots else f"{tier}-{strategy}-{index}",
        )
        for (tier, strategy), count in counts.items()
        for index in range(count)
    ]


def tally(ids: tuple[str, ...]) -> Counter[str]:
    return Counter(identity.rsplit("-", 1)[0] for identity in ids)


PLENTY = pool(
    {
        (Tier.EASY, Strategy.HARDER): 500,
        (Tier.EASY, Strategy.APPLY): 10,
        (Tier.MEDIUM, Strategy.HARDER): 300,
        (Tier.HARD, Strategy.COMPOSE): 20,
        (Tier.COMPETITION, Strategy.REWRITE): 5,
    }
)


LEVEL: Any = {"stratify": "tier_strategy"}


def test_the_proportions_of_the_supply_are_kept_unless_a_stratification_is_asked_for() -> None:
    supply = {
        (Tier.EASY, Strategy.HARDER): 1_600,
        (Tier.EASY, Strategy.APPLY): 800,
        (Tier.COMPETITION, Strategy.COMPETITION): 1_600,
    }
    chosen = tally(select(pool(supply), SelectSettings(target=1_000)))
    for (tier, strategy), count in supply.items():
        # standard error of a share of 0.4 in a sample of 1,000 from 4,000: 1.3 points
        assert chosen[f"{tier}-{strategy}"] / 1_000 == pytest.approx(count / 4_000, abs=0.05)


def test_tiers_alone_can_be_levelled() -> None:
    chosen = tally(select(PLENTY, SelectSettings(target=105, stratify="tier")))
    # 105 over four tiers: competition has 5, hard 20, and the other two share the remaining 80
    assert chosen["medium-harder"] == chosen["easy-harder"] + chosen["easy-apply"] == 40
    assert (chosen["hard-compose"], chosen["competition-rewrite"]) == (20, 5)
    assert chosen["easy-apply"] <= 4  # 10 of the 510 easy problems


def test_tiers_and_strategies_can_be_made_as_equal_as_the_supply_allows() -> None:
    chosen = select(PLENTY, SelectSettings(target=105, **LEVEL))
    # 105 over four tiers: competition has 5, hard 20, and the other two share the remaining 80
    assert tally(chosen) == {
        "easy-harder": 30, "easy-apply": 10, "medium-harder": 40, "hard-compose": 20, "competition-rewrite": 5,
    }  # fmt: skip


@pytest.mark.parametrize("stratify", ["none", "tier", "tier_strategy"])
def test_the_order_of_the_input_does_not_matter(stratify: Any) -> None:
    settings = SelectSettings(target=60, per_root=2, stratify=stratify)
    candidates = pool({(tier, strategy): 9 for tier in Tier for strategy in Strategy}, roots=7)
    expected = select(candidates, settings)
    for seed in range(5):
        random.Random(seed).shuffle(candidates)
        assert select(candidates, settings) == expected


@pytest.mark.parametrize("stratify", ["none", "tier", "tier_strategy"])
def test_the_selection_for_a_smaller_target_is_a_prefix_of_that_for_a_larger_one(stratify: Any) -> None:
    larger = select(PLENTY, SelectSettings(target=200, stratify=stratify))
    assert select(PLENTY, SelectSettings(target=50, stratify=stratify)) == larger[:50]


def test_another_seed_selects_other_problems_in_the_same_numbers() -> None:
    first, second = (select(PLENTY, SelectSettings(target=105, seed=seed, **LEVEL)) for seed in (0, 1))
    assert set(first) != set(second) and tally(first) == tally(second)


def test_no_root_has_more_than_its_share() -> None:
    candidates = pool({(tier, strategy): 30 for tier in Tier for strategy in Strategy}, roots=10)
    chosen = select(candidates, SelectSettings(target=None, per_root=3))
    roots = {candidate.id: candidate.root_id for candidate in candidates}
    assert Counter(roots[identity] for identity in chosen) == {
        f"{tier}-{root}": 3 for tier in Tier for root in range(10)
    }


def test_without_a_target_everything_is_kept() -> None:
    assert set(select(PLENTY, SelectSettings(target=None))) == {candidate.id for candidate in PLENTY}
    assert len(select(PLENTY, SelectSettings(target=100_000))) == len(PLENTY)
    assert select([], SelectSettings()) == ()


def test_a_duplicate_id_is_rejected() -> None:
    with pytest.raises(ValueError, match="easy-harder-0"):
        select([*PLENTY, PLENTY[0]], SelectSettings())


STRATA = {
    f"p{index}": tier
    for index, tier in enumerate([Tier.EASY] * 50 + [Tier.HARD] * 30 + [Tier.COMPETITION] * 21)
}


def test_the_test_split_has_exactly_its_size_and_every_tier_its_share() -> None:
    split = split_curated(list(STRATA), 20, 0, STRATA)
    held_out = Counter(STRATA[identity] for identity, name in split.items() if name == "test")
    # 20 x 50/101 = 9.90, 20 x 30/101 = 5.94, 20 x 21/101 = 4.16
    assert held_out == {Tier.EASY: 10, Tier.HARD: 6, Tier.COMPETITION: 4}
    assert list(split) == list(STRATA) and set(split.values()) == {"train", "test"}


def test_the_split_depends_only_on_ids_and_seed() -> None:
    shuffled = random.Random(1).sample(list(STRATA), len(STRATA))
    assert split_curated(shuffled, 20, 0, STRATA) == split_curated(list(STRATA), 20, 0, STRATA)
    assert split_curated(list(STRATA), 20, 1, STRATA) != split_curated(list(STRATA), 20, 0, STRATA)


@pytest.mark.parametrize("test_problems", [0, 1, 50, 100, 101])
def test_every_size_up_to_all_is_reached_exactly(test_problems: int) -> None:
    split = split_curated(list(STRATA), test_problems, 0, STRATA)
    assert Counter(split.values())["test"] == test_problems


def test_holding_out_too_many_problems_is_a_user_error() -> None:
    with pytest.raises(UserError, match="only 101 curated problems"):
        split_curated(list(STRATA), 102, 0, STRATA)
    assert split_curated([], 0, 0, {}) == {}
