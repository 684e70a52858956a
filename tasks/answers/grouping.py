"""Decisions on all pairs of answers to one problem, such that equality is an equivalence.

Equality by proof is transitive and builds the classes. An equality by a ruling (a unit, a percent sign, a name on one side
only) joins two classes only where that is unambiguous: all of their answers are equal to each other, and no third class is
equal to one of them and not to the other. `198` and `198%` alone are joined; with `1.98` beside them they are left apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from tasks.answers.equivalence import verdict
from tasks.answers.verdicts import Basis, Outcome, Verdict

Pair = tuple[str, str]
_STRONG: Final = (Basis.PROOF, Basis.EVIDENCE)


@dataclass(frozen=True, slots=True)
class Settled:
    """`decisions`: True, False, or None where a judge has to decide. `ambiguous`: pairs that a ruling makes equal, but that
    are left apart because of the other answers."""

    decisions: dict[Pair, bool | None]
    ambiguous: int


def settle(answers: Sequence[str]) -> Settled:
    """Decide every pair of different answers, each pair in sorted order."""
    return settled(
        {(min(a, b), max(a, b)): verdict(a, b) for a, b in combinations(dict.fromkeys(answers), 2)}
    )


def settled(verdicts: Mapping[Pair, Verdict]) -> Settled:
    """Make the decisions on pairs from their verdicts. `verdicts` holds every pair of some answers."""
    classes = _classes(verdicts)
    links = _links(verdicts, classes)
    neighbours = {name: {name} for name in set(classes.values())}
    for (first, second), found in links.items():
        if all(one.outcome is Outcome.EQUAL for one in found):
            neighbours[first].add(second)
            neighbours[second].add(first)
    decisions: dict[Pair, bool | None] = {}
    ambiguous = 0
    for pair, one in verdicts.items():
        first, second = classes[pair[0]], classes[pair[1]]
        joined = first == second or (second in neighbours[first] and neighbours[first] == neighbours[second])
        if joined:
            decisions[pair] = True
            continue
        across = links[min(first, second), max(first, second)]
        ambiguous += one.outcome is Outcome.EQUAL
        apart = one.outcome is Outcome.EQUAL or any(other.certain for other in across)
        decisions[pair] = False if apart else None
    return Settled(decisions, ambiguous)


def _classes(verdicts: Mapping[Pair, Verdict]) -> dict[str, str]:
    """Return {answer: first answer of its class}, by the transitive closure of proved equality."""
    roots: dict[str, str] = {answer: answer for pair in verdicts for answer in pair}

    def root(answer: str) -> str:
        while roots[answer] != answer:
            answer = roots[answer]
        return answer

    for (first, second), one in verdicts.items():
        if one.outcome is Outcome.EQUAL and one.basis in _STRONG:
            a, b = sorted((root(first), root(second)))
            roots[b] = a
    return {answer: root(answer) for answer in roots}


def _links(verdicts: Mapping[Pair, Verdict], classes: Mapping[str, str]) -> dict[Pair, list[Verdict]]:
    """Return the verdicts between each two classes."""
    found: dict[Pair, list[Verdict]] = {}
    for (a, b), one in verdicts.items():
        first, second = sorted((classes[a], classes[b]))
        if first != second:
            found.setdefault((first, second), []).append(one)
    return found
