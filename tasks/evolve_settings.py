"""The settings of the evolution: rounds, branches and strategy weights of each tier."""

from __future__ import annotations

from pydantic import Field, PositiveInt, model_validator

from tasks.rows import Strategy, Tier
from tasks.settings import Sampling, Settings, Weight

FOLLOW_UPS = (Strategy.HARDER, Strategy.COMPETITION, Strategy.COMPOSE)


def _default_strategy_weights() -> dict[Tier, dict[Strategy, float]]:
    order = (
        Strategy.HARDER, Strategy.COMPETITION, Strategy.COMPOSE, Strategy.REWRITE, Strategy.ALGEBRAIZE, Strategy.APPLY,
    )  # fmt: skip
    table = {
        Tier.EASY: (0.20, 0.10, 0.15, 0.20, 0.15, 0.20),
        Tier.MEDIUM: (0.25, 0.15, 0.15, 0.15, 0.15, 0.15),
        Tier.HARD: (0.30, 0.25, 0.15, 0.10, 0.10, 0.10),
        Tier.COMPETITION: (0.30, 0.35, 0.15, 0.10, 0.05, 0.05),
    }
    return {tier: dict(zip(order, weights, strict=True)) for tier, weights in table.items()}


class EvolveSettings(Settings):
    """Evolution of seeds: 1, 2, 3 or 5 rounds, depending on the tier.

    Round 1 creates `branches` children per seed, with strategies in the proportions of the tier's weights. Each later round
    creates one child per problem of the previous round, with a strategy from `follow_ups` other than its parent's, drawn
    by the same weights.

    The paper gives the rounds and the strategies but no weights; it only says that harder and competition are drawn more
    often the higher the tier. Here their joint share is 0.30, 0.40, 0.55 and 0.65 from easy to competition.

    If `target` is set, `branches` is multiplied until that many candidates are reached (tasks/problems/evolution_plan.py).
    The paper's million corresponds to 15,000 easy, 22,500 medium, 9,400 hard and 110 competition seeds: 15,000 x 1 +
    22,500 x 2 + 9,400 x 3 + 110 x 5 = 88,750 candidates per branch; 12 branches make 1,065,000 candidates.
    """

    rounds: dict[Tier, int] = Field(
        default_factory=lambda: {Tier.EASY: 1, Tier.MEDIUM: 2, Tier.HARD: 3, Tier.COMPETITION: 5}
    )
    branches: dict[Tier, int] = Field(default_factory=lambda: dict.fromkeys(Tier, 1))
    target: PositiveInt | None = None  # candidates of all rounds together if nothing is rejected
    strategy_weights: dict[Tier, dict[Strategy, Weight]] = Field(default_factory=_default_strategy_weights)
    follow_ups: tuple[Strategy, ...] = FOLLOW_UPS
    sampling: Sampling = Sampling(temperature=0.7, top_p=0.95, max_tokens=2048)
    max_reply_chars: PositiveInt = 20_000
    seed: int = 0

    @model_validator(mode="after")
    def _every_tier_is_covered(self) -> EvolveSettings:
        for tier in Tier:
            weights = self.strategy_weights.get(tier, {})
            if sum(weights.values()) <= 0:
                raise ValueError(
                    f"strategy_weights has no positive weight for tier {tier}: give at least one"
                )
            if self.rounds.get(tier, 0) < 0 or self.branches.get(tier, 0) < 1:
                raise ValueError(f"tier {tier} needs rounds >= 0 and branches >= 1")
            drawn = [name for name in set(self.follow_ups) if weights.get(name, 0) > 0]
            if self.rounds[tier] > 1 and len(drawn) < 2:
                raise ValueError(
                    f"tier {tier} has {self.rounds[tier]} rounds, but fewer than two of follow_ups have a positive weight in"
                    f" strategy_weights.{tier}, and a child never repeats its parent's strategy: give two of them a weight"
                )
        return self
