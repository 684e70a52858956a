"""The evolution plan: strategies drawn by weight from ids only, rounds and branches by tier."""

from __future__ import annotations

from collections import Counter

import pytest

from tasks.config import EvolveSettings
from tasks.errors import UserError
from tasks.problems.evolution_plan import (
    Planned,
    children,
    first_strategy,
    follow_up,
    planned_totals,
    with_target,
)
from tasks.rows import Problem, Role, Strategy, Tier

DEFAULT = EvolveSettings()


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


def test_first_strategies_follow_the_weights() -> None:
    counts = Counter(first_strategy(f"p{index}", 0, Tier.EASY, DEFAULT) for index in range(20_000))
    for strategy, weight in DEFAULT.strategy_weights[Tier.EASY].items():
        assert counts[strategy] / 20_000 == pytest.approx(weight, abs=0.012)  # 4 standard errors at most


def test_branches_of_one_parent_differ_until_every_strategy_is_used() -> None:
    for index in range(200):
        series = [first_strategy(f"p{index}", branch, Tier.HARD, DEFAULT) for branch in range(12)]
        assert set(series[:6]) == set(series[6:]) == set(Strategy)


def test_a_strategy_without_weight_is_never_drawn() -> None:
    settings = with_easy_weights({Strategy.APPLY: 1.0, Strategy.REWRITE: 2.0, Strategy.HARDER: 0.0})
    drawn = [
        first_strategy(f"p{index}", branch, Tier.EASY, settings) for index in range(50) for branch in range(4)
    ]
    assert set(drawn) == {Strategy.APPLY, Strategy.REWRITE}
    assert Counter(drawn) == {Strategy.APPLY: 100, Strategy.REWRITE: 100}  # each twice among four branches


def test_the_second_branch_is_a_weighted_draw_from_the_remaining_strategies() -> None:
    settings = with_easy_weights({Strategy.APPLY: 6.0, Strategy.REWRITE: 3.0, Strategy.HARDER: 1.0})
    pairs = [
        [first_strategy(f"p{index}", branch, Tier.EASY, settings) for branch in (0, 1)]
        for index in range(20_000)
    ]
    after_apply = [second for first, second in pairs if first is Strategy.APPLY]
    assert after_apply.count(Strategy.REWRITE) / len(after_apply) == pytest.approx(0.75, abs=0.016)


def test_draws_depend_only_on_id_and_seed() -> None:
    ids = [f"p{index}" for index in range(100)]
    again = EvolveSettings()
    other = EvolveSettings(seed=1)

    def draws(settings: EvolveSettings) -> list[Strategy]:
        return [first_strategy(identity, 0, Tier.MEDIUM, settings) for identity in ids]

    assert draws(DEFAULT) == draws(again) != draws(other)


@pytest.mark.parametrize("parent", [*Strategy, None])
def test_follow_ups_are_uniform_over_all_strategies_but_the_parents(parent: Strategy | None) -> None:
    counts = Counter(follow_up(f"p{index}", parent, DEFAULT) for index in range(6_000))
    expected = set(DEFAULT.follow_ups) - {parent}
    assert set(counts) == expected
    for count in counts.values():
        assert count / 6_000 == pytest.approx(1 / len(expected), abs=0.03)


def test_a_seed_has_the_branches_of_its_tier_in_round_one() -> None:
    settings = EvolveSettings(branches={Tier.EASY: 1, Tier.MEDIUM: 3, Tier.HARD: 1, Tier.COMPETITION: 2})
    planned = children(problem(Role.SEED, Tier.MEDIUM), 1, settings)
    assert planned == tuple(
        Planned(parent_id="p", branch=branch, strategy=first_strategy("p", branch, Tier.MEDIUM, settings))
        for branch in range(3)
    )
    assert children(problem(Role.SEED, Tier.MEDIUM), 2, settings) == ()


def test_an_evolved_problem_has_one_child_in_the_next_round_while_its_tier_has_rounds() -> None:
    evolved = problem(Role.EVOLVED, Tier.HARD, round=2, strategy=Strategy.COMPOSE)
    (child,) = children(evolved, 3, DEFAULT)
    assert child == Planned(parent_id="p", branch=0, strategy=follow_up("p", Strategy.COMPOSE, DEFAULT))
    assert child.strategy is not Strategy.COMPOSE
    assert children(evolved, 2, DEFAULT) == children(evolved, 4, DEFAULT) == ()
    assert children(problem(Role.EVOLVED, Tier.HARD, round=3, strategy=Strategy.HARDER), 4, DEFAULT) == ()
    assert children(problem(Role.EVOLVED, Tier.EASY, round=1, strategy=Strategy.HARDER), 2, DEFAULT) == ()


def test_curated_problems_are_never_evolved() -> None:
    assert [children(problem(Role.CURATED, Tier.COMPETITION), round, DEFAULT) for round in range(1, 6)] == [
        ()
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
        planned = [(parent, child) for parent in generation for child in children(parent, round, settings)]
        assert len(planned) == total
        generation = [
            problem(Role.EVOLVED, parent.tier, round, child.strategy, f"{parent.id}/{child.branch}")
            for parent, child in planned
        ]


def test_nothing_is_planned_for_no_seeds_or_no_rounds() -> None:
    assert planned_totals({}, DEFAULT) == {}
    none = EvolveSettings(rounds=dict.fromkeys(Tier, 0))
    assert (
        planned_totals({Tier.EASY: 3}, none) == {} and children(problem(Role.SEED, Tier.EASY), 1, none) == ()
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
