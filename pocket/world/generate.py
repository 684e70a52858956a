"""Base problems: a family, a level and possibly evolutions, determined by (seed, tier, index) alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .evolve import evolve_node, fresh_branch
from .families import EASY, FAMILIES, HARD, MEDIUM
from .tree import Branch, Node, count_steps, evaluate, render
from .values import canonical

MOST_STEPS = 7
"""Maximum number of calculations of a base problem; its solution then rarely exceeds 130 words."""

TIERS = ("easy", "medium", "hard", "competition")


@dataclass(frozen=True, slots=True, kw_only=True)
class PocketProblem:
    """A problem with its answer in canonical form; ``steps`` counts the calculations of a solution."""

    text: str
    answer: str
    tier: str
    family: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The level of a family and the evolutions applied to it; ``share`` is the weight within the tier."""

    share: int
    level: int
    evolutions: tuple[str, ...] = ()


RECIPES: dict[str, tuple[Recipe, ...]] = {
    "easy": (Recipe(share=1, level=EASY),),
    "medium": (
        Recipe(share=7, level=MEDIUM),
        Recipe(share=2, level=EASY, evolutions=("harder",)),
        Recipe(share=1, level=EASY, evolutions=("algebraize",)),
    ),
    "hard": (
        Recipe(share=4, level=HARD),
        Recipe(share=2, level=MEDIUM, evolutions=("harder",)),
        Recipe(share=2, level=MEDIUM, evolutions=("algebraize",)),
        Recipe(share=2, level=EASY, evolutions=("compose",)),
        Recipe(share=1, level=MEDIUM, evolutions=("algebraize", "harder")),
    ),
    "competition": (
        Recipe(share=3, level=HARD, evolutions=("competition",)),
        Recipe(share=2, level=HARD, evolutions=("harder", "competition")),
        Recipe(share=2, level=MEDIUM, evolutions=("compose", "competition")),
        Recipe(share=2, level=HARD, evolutions=("algebraize", "competition")),
        Recipe(share=1, level=HARD, evolutions=("compose",)),
    ),
}


def problem(seed: int, tier: str, index: int) -> PocketProblem:
    """Return problem number ``index`` of a tier, identical in every process. Raises ValueError for an unknown tier."""
    if tier not in RECIPES:
        raise ValueError(f"unknown tier {tier!r}: choose one of {', '.join(TIERS)}")
    rng = random.Random(f"{seed}/{tier}/{index}")
    node = draw_node(tier, rng)
    first = node.items[0]
    assert isinstance(first, Branch)
    answer = canonical(evaluate(node).answer)
    return PocketProblem(
        text=render(node), answer=answer, tier=tier, family=first.family, steps=count_steps(node)
    )


def draw_node(tier: str, rng: random.Random) -> Node:
    """Draw a problem of a tier that has at most `MOST_STEPS` steps."""
    recipes = RECIPES[tier]
    while True:
        recipe = rng.choices(recipes, [r.share for r in recipes])[0]
        family = rng.choice([f for f in FAMILIES if recipe.level in f.levels])
        node: Node | None = Node(items=(fresh_branch(rng, family, recipe.level),))
        for strategy in recipe.evolutions:
            node = None if node is None else evolve_node(node, strategy, rng)
        if node is not None and count_steps(node) <= MOST_STEPS:
            return node
