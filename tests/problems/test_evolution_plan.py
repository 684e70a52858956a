"""The evolution plan: strategies in the proportions of the weights, rounds and branches by tier."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tasks.config import EvolveSettings
from tasks.errors import UserError
from tasks.problems.evolution_plan import (
    Planned,
    chooser,
    follow_up,
    planned_round,
    planned_totals,
    spread,
    with_target,
)
from tasks.rows import Problem, Role, Strategy, Tier

DEFAULT = EvolveSettings()
HARD_TO_SOLVE = (Strategy.HARDER, Strategy.COMPETITION)


def problem(
    role: Role, tier: Tier, round: int = 0, strategy: Strategy | None = None, id: str = "p"
) -> Problem:
    return Problem(
        id=id, text="t", tier=tier, source="s", source_id="1", licence="MIT", role=role, root_id="r", round=round,
        strategy=strategy,
    )  # fmt: skip


def with_easy_weights(weights: dict[Strategy, float], **more: object) -> EvolveSettings:
    table = DEFAULT.strategy_weights | {Tier.EASY: weights}
    return EvolveSettings.model_validate({"strategy_weights": table, **more})


def children(parent: Problem, round: int, settings: EvolveSettings) -> list[Planned]:
    return [child for _, child in planned_round([parent], round, settings)]


def seeds_of(tier: Tier, count: int) -> list[Problem]:
    return [problem(Role.SEED, tier, id=f"{tier}{number}") for number in range(count)]


def strategies(seeds: list[Problem], settings: EvolveSettings) -> dict[tuple[str, int], Strategy]:
    return {(child.parent_id, child.branch): child.strategy for _, child in planned_round(seeds, 1, settings)}


def test_the_joint_share_of_harder_and_competition_grows_with_the_tier() -> None:
    joint = [sum(DEFAULT.strategy_weights[tier][name] for name in HARD_TO_SOLVE) for tier in Tier]
    assert joint == pytest.approx([0.30, 0.40, 0.55, 0.65])
    for tier in Tier:
        weights = DEFAULT.strategy_weights[tier]
        assert set(weights) == set(Strategy) and sum(weights.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(("seed", "branches"), [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (1, 5)])
def test_the_first_rounds_shares_match_the_weights_within_two_points(seed: int, branches: int) -> None:
    settings = EvolveSettings(seed=seed, branches=dict.fromkeys(Tier, branches))
    seeds = [one for tier in Tier for one in seeds_of(tier, 2_000)]
    plan = planned_round(seeds, 1, settings)
    assert len(plan) == 8_000 * branches
    for tier in Tier:
        counts = Counter(child.strategy for parent, child in plan if parent.tier is tier)
        shares = {name: counts[name] / (2_000 * branches) for name in Strategy}
        weights = settings.strategy_weights[tier]
        assert shares == pytest.approx(weights, abs=0.02)
        assert shares == pytest.approx(weights, abs=1 / 2_000)  # one seed more or less in every branch
        joint = sum(shares[name] for name in HARD_TO_SOLVE)
        assert joint == pytest.approx(sum(weights[name] for name in HARD_TO_SOLVE), abs=0.02)


def test_shares_of_many_small_groups_match_the_weights() -> None:
    counts: Counter[Strategy] = Counter()
    for group in range(400):  # one to nine seeds are planned together
        seeds = [problem(Role.SEED, Tier.HARD, id=f"{group}/{n}") for n in range(1 + group % 9)]
        counts.update(child.strategy for _, child in planned_round(seeds, 1, DEFAULT))
    shares = {name: counts[name] / counts.total() for name in Strategy}
    assert shares == pytest.approx(DEFAULT.strategy_weights[Tier.HARD], abs=0.03)


def test_points_are_equally_spaced_in_every_tier() -> None:
    tiers = {f"{tier}{n}": tier for tier, count in ((Tier.EASY, 7), (Tier.HARD, 4)) for n in range(count)}
    for tier, count in ((Tier.EASY, 7), (Tier.HARD, 4)):
        points = sorted(point for name, point in spread(tiers, 0).items() if tiers[name] is tier)
        steps = [later - earlier for earlier, later in pairwise(points)]
        assert steps == pytest.approx([1 / count] * (count - 1)) and 0 <= points[0] < 1 / count


@pytest.mark.parametrize("point", [0.0, 0.2999, 0.3, 0.6999, 0.7, 0.9999999])
def test_a_point_is_in_the_interval_of_its_strategy(point: float) -> None:
    weights = {Strategy.APPLY: 3.0, Strategy.HARDER: 3.0, Strategy.COMPETITION: 4.0, Strategy.REWRITE: 0.0}
    expected = Strategy.HARDER if point < 0.3 else Strategy.COMPETITION if point < 0.7 else Strategy.APPLY
    assert chooser(weights)(point) is expected


def test_one_seed_more_or_another_one_changes_few_strategies() -> None:
    settings = EvolveSettings(branches=dict.fromkeys(Tier, 2))
    seeds = seeds_of(Tier.MEDIUM, 1_001)
    before = strategies(seeds[:1_000], settings)
    for after in (strategies(seeds, settings), strategies(seeds[1:], settings)):
        common = before.keys() & after.keys()
        assert len(common) >= 1_998
        assert sum(before[key] is not after[key] for key in common) <= 2 * (len(Strategy) + 1)


def test_a_run_with_twice_the_seeds_keeps_most_strategies() -> None:
    seeds = seeds_of(Tier.HARD, 4_000)
    before, after = strategies(seeds[:2_000], DEFAULT), strategies(seeds, DEFAULT)
    assert sum(after[key] is strategy for key, strategy in before.items()) >= 0.9 * 2_000


def test_more_branches_keep_the_strategies_of_the_first_ones() -> None:
    seeds = seeds_of(Tier.EASY, 50)
    few = strategies(seeds, EvolveSettings(branches=dict.fromkeys(Tier, 3)))
    many = strategies(seeds, EvolveSettings(branches=dict.fromkeys(Tier, 7)))
    assert few.items() <= many.items() and len(many) == 350


def test_the_branches_of_one_seed_have_different_strategies() -> None:
    plan = strategies(seeds_of(Tier.MEDIUM, 200), EvolveSettings(branches=dict.fromkeys(Tier, 6)))
    for number in range(200):
        own = [plan[f"medium{number}", branch] for branch in range(6)]
        assert own[0] is not own[1] and len(set(own)) >= 4


def test_a_strategy_without_weight_is_never_drawn() -> None:
    settings = with_easy_weights(
        {Strategy.APPLY: 1.0, Strategy.REWRITE: 2.0, Strategy.HARDER: 0.0},
        branches=dict.fromkeys(Tier, 4),
    )
    counts = Counter(strategies(seeds_of(Tier.EASY, 60), settings).values())
    assert counts == {Strategy.APPLY: 80, Strategy.REWRITE: 160}


def test_draws_depend_only_on_ids_and_seed() -> None:
    seeds = seeds_of(Tier.MEDIUM, 100)
    assert strategies(seeds, DEFAULT) == strategies(seeds[::-1], EvolveSettings())
    assert strategies(seeds, DEFAULT) != strategies(seeds, EvolveSettings(seed=1))


@pytest.mark.parametrize("tier", Tier)
@pytest.mark.parametrize("strategy", [*Strategy, None])
def test_follow_ups_are_drawn_by_weight_from_all_strategies_but_the_parents(
    tier: Tier, strategy: Strategy | None
) -> None:
    parents = [problem(Role.EVOLVED, tier, 1, strategy, f"p{index}") for index in range(4_000)]
    counts = Counter(follow_up(parent, DEFAULT) for parent in parents)
    weights = {
        name: weight
        for name, weight in DEFAULT.strategy_weights[tier].items()
        if name in (Strategy.HARDER, Strategy.COMPETITION, Strategy.COMPOSE) and name is not strategy
    }
    assert set(counts) == set(weights)
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        assert counts[name] / 4_000 == pytest.approx(share, abs=0.032)  # 4 standard errors at most


def test_follow_ups_without_two_weights_are_rejected_where_a_tier_has_several_rounds() -> None:
    weights = {Strategy.REWRITE: 1.0, Strategy.HARDER: 1.0}
    assert with_easy_weights(weights).rounds[Tier.EASY] == 1
    with pytest.raises(ValueError, match=r"tier easy has 2 rounds, but fewer than two of follow_ups"):
        with_easy_weights(weights, rounds={**DEFAULT.rounds, Tier.EASY: 2})


def test_a_seed_has_the_branches_of_its_tier_in_round_one() -> None:
    settings = EvolveSettings(branches={Tier.EASY: 1, Tier.MEDIUM: 3, Tier.HARD: 1, Tier.COMPETITION: 2})
    planned = children(problem(Role.SEED, Tier.MEDIUM), 1, settings)
    assert [(child.parent_id, child.branch) for child in planned] == [("p", 0), ("p", 1), ("p", 2)]
    assert children(problem(Role.SEED, Tier.MEDIUM), 2, settings) == []


def test_an_evolved_problem_has_one_child_in_the_next_round_while_its_tier_has_rounds() -> None:
    evolved = problem(Role.EVOLVED, Tier.HARD, round=2, strategy=Strategy.COMPOSE)
    (child,) = children(evolved, 3, DEFAULT)
    assert child == Planned(parent_id="p", branch=0, strategy=follow_up(evolved, DEFAULT))
    assert child.strategy is not Strategy.COMPOSE
    assert children(evolved, 2, DEFAULT) == children(evolved, 4, DEFAULT) == []
    assert children(problem(Role.EVOLVED, Tier.HARD, round=3, strategy=Strategy.HARDER), 4, DEFAULT) == []
    assert children(problem(Role.EVOLVED, Tier.EASY, round=1, strategy=Strategy.HARDER), 2, DEFAULT) == []


def test_curated_problems_are_never_evolved() -> None:
    assert [children(problem(Role.CURATED, Tier.COMPETITION), round, DEFAULT) for round in range(1, 6)] == [
        []
    ] * 5


def test_planned_totals_are_the_requests_of_a_run_without_rejects() -> None:
    settings = EvolveSettings(branches={Tier.EASY: 2, Tier.MEDIUM: 3, Tier.HARD: 1, Tier.COMPETITION: 4})
    seeds = {Tier.EASY: 10, Tier.MEDIUM: 5, Tier.HARD: 4, Tier.COMPETITION: 2}
    # easy 20; medium 15, 15; hard 4, 4, 4; competition 8 five times
    assert planned_totals(seeds, settings) == {1: 47, 2: 27, 3: 12, 4: 8, 5: 8}
    generation = [
        problem(Role.SEED, tier, id=f"{tier}{n}") for tier, count in seeds.items() for n in range(count)
    ]
    for round, total in planned_totals(seeds, settings).items():
        planned = planned_round(generation, round, settings)
        assert len(planned) == total
        generation = [
            problem(Role.EVOLVED, parent.tier, round, child.strategy, f"{parent.id}/{child.branch}")
            for parent, child in planned
        ]


def test_nothing_is_planned_for_no_seeds_or_no_rounds() -> None:
    assert planned_totals({}, DEFAULT) == {}
    none = EvolveSettings(rounds=dict.fromkeys(Tier, 0))
    assert (
        planned_totals({Tier.EASY: 3}, none) == {} and children(problem(Role.SEED, Tier.EASY), 1, none) == []
    )


PAPER = {Tier.EASY: 15_000, Tier.MEDIUM: 22_500, Tier.HARD: 9_400, Tier.COMPETITION: 110}  # 47,010 seeds


@pytest.mark.parametrize(
    ("target", "times", "candidates"),
    [(1_000_000, 12, 1_065_000), (88_750, 1, 88_750), (88_751, 2, 177_500)],
)
def test_the_target_is_reached_by_the_fewest_equal_branches(target: int, times: int, candidates: int) -> None:
    # one branch with the papers' seeds: 15,000 x 1 + 22,500 x 2 + 9,400 x 3 + 110 x 5 = 88,750
    settings = with_target(PAPER, EvolveSettings(target=target))
    assert set(settings.branches.values()) == {times}
    assert sum(planned_totals(PAPER, settings).values()) == candidates


def test_the_target_keeps_the_proportions_of_the_branches() -> None:
    branches = {Tier.EASY: 2, Tier.MEDIUM: 1, Tier.HARD: 3, Tier.COMPETITION: 1}
    settings = with_target({Tier.EASY: 5, Tier.HARD: 1}, EvolveSettings(branches=branches, target=50))
    # 5 x 2 x 1 + 1 x 3 x 3 = 19, three times 19 is 57
    assert settings.branches == {Tier.EASY: 6, Tier.MEDIUM: 3, Tier.HARD: 9, Tier.COMPETITION: 3}
    assert with_target(PAPER, DEFAULT) == DEFAULT


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [({}, "nothing to evolve"), ({Tier.EASY: 11}, "evolve.branches already give 11 candidates")],
)
def test_an_unreachable_target_is_rejected(seeds: dict[Tier, int], sentence: str) -> None:
    with pytest.raises(UserError, match=f"evolve.target is 10, but .*{sentence}"):
        with_target(seeds, EvolveSettings(target=10))
