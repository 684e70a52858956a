"""The pocket world: math problems in templated English whose answers are known by construction."""

from __future__ import annotations

from .broken import CRITERIA, break_problem
from .equivalence import EquivalencePair, equivalence_pair
from .evolve import STRATEGIES, evolve
from .generate import TIERS, PocketProblem, problem
from .parse import oracle, parse
from .solve import solution
from .tree import Node

__all__ = [
    "CRITERIA",
    "STRATEGIES",
    "TIERS",
    "EquivalencePair",
    "Node",
    "PocketProblem",
    "break_problem",
    "equivalence_pair",
    "evolve",
    "oracle",
    "parse",
    "problem",
    "solution",
]
