"""What a family of problems is: templates, a way to draw numbers, the answer, and routes to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..language import ChainTemplate, Template
from ..values import Value

Numbers = Mapping[str, int]
"""The numbers of one problem by slot; operators and comparisons are coded as in ``language.CODES``."""

Drawn = dict[str, int | str]
Route = Callable[[Numbers], list[str]]
"""The statements that lead to the answer, without connecting words; the last one ends in the answer."""

EASY, MEDIUM, HARD = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of problem.

    ``draw(rng, level)`` gives the slots of a new problem (it may be unsound: draw again), ``sound`` says whether
    numbers make a meaningful problem with an exact answer, ``answer`` and ``routes`` may rely on ``sound``.
    ``steps`` counts the calculations a person would do. ``levels`` are those at which the family is offered.
    """

    name: str
    templates: tuple[Template | ChainTemplate, ...]
    draw: Callable[[random.Random, int], Drawn]
    sound: Callable[[Numbers], bool]
    answer: Callable[[Numbers], Value]
    routes: tuple[Route, ...]
    steps: Callable[[Numbers], int]
    levels: tuple[int, ...]
