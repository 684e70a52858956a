"""The evolution plan: which problems are evolved, how often and by which strategy.

It is a pure function of problem ids and settings, without random state.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import xxhash

from tasks.config import EvolveSettings
from tasks.errors import UserError
from tasks.rows import Problem, Role, Strategy, Tier

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
HARDEST = (Strategy.HARDER, Strategy.COMPETITION)
ORDER = (*HARDEST, *(strategy for strategy in Strategy if strategy not in HARDEST))
"""Order of the strategies in `chooser`: with harder next to competition, their joint share is as exact as each one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One child to request from the evolver."""

    parent_id: str
    branch: int  # index among the children of one parent: 0, 1, ...
    strategy: Strategy


def planned_round(
    parents: Sequence[Problem], round: int, settings: EvolveSettings
) -> list[tuple[Problem, Planned]]:
    """Return the children of all `parents` in `round` (1, 2, ...), in the order of the parents.

    In round 1 every seed has as many children as its tier's `branches`. In round r every evolved problem of round r - 1
    has one child, if its tier has at least r rounds. Curated problems have none.

    The strategies of round 1 are in the proportions of the weights: among the first (second, ...) children of the seeds
    of one tier, the number with a given strategy differs from its expectation by less than one. They depend on the
    other seeds in `parents`, but little: one seed more or less changes a few of them.
    """
    parents = [problem for problem in parents if round <= settings.rounds[problem.tier]]
    if round > 1:
        return [
            (problem, _child(problem, 0, follow_up(problem, settings)))
            for problem in parents
            if problem.role is Role.EVOLVED and problem.round == round - 1
        ]
    seeds = [problem for problem in parents if problem.role is Role.SEED]
    points = spread({problem.id: problem.tier for problem in seeds}, settings.seed)
    at = {tier: chooser(weights) for tier, weights in settings.strategy_weights.items()}
    return [
        (problem, _child(problem, branch, at[problem.tier](branch_point(points[problem.id], branch))))
        for problem in seeds
        for branch in range(settings.branches[problem.tier])
    ]


def _child(problem: Problem, branch: int, strategy: Strategy) -> Planned:
    return Planned(parent_id=problem.id, branch=branch, strategy=strategy)


def spread(tiers: Mapping[str, Tier], seed: int) -> dict[str, float]:
    """Return a point in [0, 1) for each id: the ids of one tier are equally spaced, in the order of their hashes.

    This is a systematic sample with a random start. A point is close to the id's own hash, as a share of all hashes, and
    so hardly depends on the other ids.
    """
    members: defaultdict[Tier, list[tuple[float, str]]] = defaultdict(list)
    for identity, tier in tiers.items():
        members[tier].append((_uniform(seed, "order", identity), identity))
    points = {}
    for ordered in map(sorted, members.values()):
        start = _uniform(seed, "start", ordered[0][1])
        points |= {identity: (place + start) / len(ordered) for place, (_, identity) in enumerate(ordered)}
    return points


def branch_point(point: float, branch: int) -> float:
    """Return the point of one child of a seed. Successive branches move it by the golden ratio, which spreads them over the
    strategies as well; a branch does not depend on how many there are."""
    return (point + branch * GOLDEN_RATIO) % 1.0


def follow_up(parent: Problem, settings: EvolveSettings) -> Strategy:
    """Return the strategy for the child of an evolved problem: drawn from `follow_ups` without the parent's strategy, by the
    weights of its tier."""
    weights = settings.strategy_weights[parent.tier]
    choices = {name: weights.get(name, 0.0) for name in settings.follow_ups if name is not parent.strategy}
    return chooser(choices)(_uniform(settings.seed, parent.id, "follow-up"))


def chooser(weights: Mapping[Strategy, float]) -> Callable[[float], Strategy]:
    """Return the function from a point in [0, 1) to its strategy: [0, 1) is divided in proportion to the weights, in `ORDER`."""
    names = [name for name in ORDER if weights.get(name, 0.0) > 0]
    ends = list(accumulate(weights[name] for name in names))
    return lambda point: names[min(bisect_right(ends, point * ends[-1]), len(names) - 1)]


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
