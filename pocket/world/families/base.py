"""The definition of a family of problems: templates, drawing of numbers, the answer, and solution routes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..language import ChainTemplate, Template
from ..values import Value

Numbers = Mapping[str, int]
"""The numbers of one problem by slot; operators and comparisons are encoded as in ``language.CODES``."""

Drawn = dict[str, int | str]
Route = Callable[[Numbers], list[str]]
"""Returns the statements of a solution without connecting words; the last one ends in the answer."""

EASY, MEDIUM, HARD = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of problem.

    ``draw(rng, level)`` returns the slots of a new problem, which may be unsound (then draw again). ``sound`` returns
    whether the numbers make a meaningful problem with an exact answer; ``answer`` and ``routes`` may assume that.
    ``steps`` counts the calculations of a solution. ``levels`` are the levels at which the family is a problem of its own; a
    family without levels has problems of one step, which are used as a part of larger ones.
    """

    name: str
    templates: tuple[Template | ChainTemplate, ...]
    draw: Callable[[random.Random, int], Drawn]
    sound: Callable[[Numbers], bool]
    answer: Callable[[Numbers], Value]
    routes: tuple[Route, ...]
    steps: Callable[[Numbers], int]
    levels: tuple[int, ...]
