"""Solvers that know only some families of problems, or are wrong about some: less training data, or corrupted answers."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pocket import world
from pocket.world.families import FAMILIES
from pocket.world.tree import Branch

__all__ = ["ALL", "Variant", "chosen_families", "families_of", "with_wrong_answer"]

NAMES = tuple(family.name for family in FAMILIES)
NUMBER = re.compile(r"\d+")
BOX = "\\boxed{"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """`families`: only problems of these families are learned; empty: all. `wrong`: families whose problems are learned with
    wrong answers."""

    families: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def keeps(self, families: frozenset[str]) -> bool:
        """Whether a problem of these families is learned."""
        return not self.families or families <= set(self.families)

    def corrupts(self, families: frozenset[str]) -> bool:
        """Whether a problem of these families is learned with a wrong answer."""
        return not families.isdisjoint(self.wrong)

    @property
    def name(self) -> str:
        """What distinguishes prepared data of this variant; empty for all data, unchanged."""
        given = {"only": self.families, "wrong": self.wrong}
        return "".join(f"-{what}-{'+'.join(names)}" for what, names in given.items() if names)


ALL = Variant()


def chosen_families(text: str) -> tuple[str, ...]:
    """Return the families of an argument: names with commas between them, or `1/2` or `2/2`, every second family from the first
    or from the second on. Raises `ValueError` with the names for an unknown one."""
    if text in ("1/2", "2/2"):
        return NAMES[int(text[0]) - 1 :: 2]
    chosen = tuple(dict.fromkeys(text.split(",")))
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        raise ValueError(f"unknown family {unknown[0]!r}: choose among {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in chosen)


def families_of(text: str) -> frozenset[str]:
    """Return the families of the parts of a problem. Raises `ValueError` for a text that is no pocket problem."""
    node = world.parse(text)
    if node is None:
        raise ValueError("not a pocket problem: check its wording")
    return frozenset(item.family for item in node.items if isinstance(item, Branch))


def with_wrong_answer(solution: str, seeds: Sequence[object]) -> str:
    """Return the solution with one number of its final answer replaced by another with at most as many digits, drawn by the
    seeds, so that no wrong answer is more frequent than others. The steps before stay."""
    rng = random.Random("/".join(map(str, (*seeds, "wrong"))))
    start = solution.rindex(BOX) + len(BOX)
    places = list(NUMBER.finditer(solution, start))
    if not places:
        raise ValueError(f"the answer in {solution[start:]!r} has no number")
    place = rng.choice(places)
    other = rng.choice([n for n in range(1, 10 ** len(place[0]) + 1) if n != int(place[0])])
    return f"{solution[: place.start()]}{other}{solution[place.end() :]}"
