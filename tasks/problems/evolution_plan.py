"""The evolution plan: which problems are evolved, how often and by which strategy.

It is a pure function of problem ids and settings, without random state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import xxhash

from tasks.config import EvolveSettings
from tasks.errors import UserError
from tasks.rows import Problem, Role, Strategy, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One child to request from the evolver."""

    parent_id: str
    branch: int  # index among the children of one parent: 0, 1, ...
    strategy: Strategy


def first_strategy(problem_id: str, branch: int, tier: Tier, settings: EvolveSettings) -> Strategy:
    """Return the strategy of one child of a seed, drawn by the tier's weights.

    The branches of one parent are weighted draws without replacement. A strategy repeats only after every strategy with a
    positive weight has been drawn once.
    """
    weights = {name: weight for name, weight in settings.strategy_weights[tier].items() if weight > 0}
    series, place = divmod(branch, len(weights))
    waits = {
        name: -math.log(_uniform(settings.seed, problem_id, series, name)) / weight
        for name, weight in weights.items()
    }
    return sorted(waits, key=lambda name: (waits[name], name))[place]


def follow_up(problem_id: str, parent_strategy: Strategy | None, settings: EvolveSettings) -> Strategy:
    """Return the strategy for the child of an evolved problem: uniform over `follow_ups` without the parent's strategy."""
    choices = sorted(set(settings.follow_ups) - {parent_strategy})
    return min(choices, key=lambda name: (_uniform(settings.seed, problem_id, "follow-up", name), name))


def children(problem: Problem, round: int, settings: EvolveSettings) -> tuple[Planned, ...]:
    """Return the children of `problem` in `round` (1, 2, ...).

    In round 1 every seed has as many children as its tier's `branches`. In round r every evolved problem of round r - 1
    has one child, if its tier has at least r rounds. Curated problems have none.
    """
    if round > settings.rounds[problem.tier]:
        return ()
    if round == 1 and problem.role is Role.SEED:
        return tuple(
            Planned(
                parent_id=problem.id,
                branch=branch,
                strategy=first_strategy(problem.id, branch, problem.tier, settings),
            )
            for branch in range(settings.branches[problem.tier])
        )
    if round > 1 and problem.role is Role.EVOLVED and problem.round == round - 1:
        return (
            Planned(
                parent_id=problem.id, branch=0, strategy=follow_up(problem.id, problem.strategy, settings)
            ),
        )
    return ()


def planned_totals(tier_counts: Mapping[Tier, int], settings: EvolveSettings) -> dict[int, int]:
    """Return the maximum number of candidates of each round, i.e. if nothing is rejected, from the seeds per tier."""
    last_round = max((settings.rounds[tier] for tier in tier_counts), default=0)
    return {
        round: sum(
            count * settings.branches[tier]
            for tier, count in tier_counts.items()
            if settings.rounds[tier] >= round
        )
        for round in range(1, last_round + 1)
    }


def with_target(tier_counts: Mapping[Tier, int], settings: EvolveSettings) -> EvolveSettings:
    """Return the settings with `branches` multiplied by the smallest integer for which the candidates reach `target`.

    Without a target the settings are returned unchanged. Raises `UserError` if there is nothing to evolve, or if the
    unmultiplied `branches` already exceed the target.
    """
    if settings.target is None:
        return settings
    single = sum(planned_totals(tier_counts, settings).values())
    if single == 0:
        raise UserError(
            f"evolve.target is {settings.target:,}, but there is nothing to evolve: add seeds of a tier with rounds"
        )
    if single > settings.target:
        raise UserError(
            f"evolve.target is {settings.target:,}, but evolve.branches already give {single:,} candidates: raise or"
            " remove the target, or use fewer seeds"
        )
    times = -(-settings.target // single)
    branches = {tier: times * number for tier, number in settings.branches.items()}
    return settings.model_copy(update={"branches": branches})


def _uniform(*key: object) -> float:
    """Return a number in (0, 1) that depends only on `key`."""
    digest = xxhash.xxh3_64_intdigest("\x1f".join(map(str, key)).encode("utf-8", "surrogatepass"))
    return (digest % (1 << 52) + 0.5) / (1 << 52)
