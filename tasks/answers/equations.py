"""Comparing equations and inequalities: statements and identities by their values, others up to a constant factor."""

from __future__ import annotations

from typing import Any

from tasks.answers.forms import Exponent, Monomial, Polynomial, constant_quotient, joined
from tasks.answers.integers import TooLarge
from tasks.answers.proof import decide, exact_form
from tasks.answers.regions import FLIPPED
from tasks.answers.tree import Equation, Expression, Node, Reading, Relation, number
from tasks.answers.verdicts import (
    OTHER_KIND,
    UNDECIDED,
    Basis,
    Outcome,
    Verdict,
    by_ruling,
    different,
    equal,
    together,
)


def statement_value(x: Equation) -> Expression | None:
    """Return the last side of `35+70=105`, in which nothing is unknown."""
    return None if any(side.variables for side in x.sides) else x.sides[-1]


def is_identity(x: Equation) -> bool:
    """Return whether all sides are equal for all values of their unknowns."""
    return all(decide(x.sides[0], side).outcome is Outcome.EQUAL for side in x.sides[1:])


def same_lines(x: Equation, y: Equation) -> Verdict:
    """Compare equations: statements and identities by their sides, others by the difference of their sides."""
    statements = statement_value(x), statement_value(y)
    if statements[0] is not None and statements[1] is not None:
        return by_ruling(decide(statements[0], statements[1]), "the values of two statements")
    if None not in statements or (statements[0] is None) != (statements[1] is None):
        return OTHER_KIND
    if is_identity(x) or is_identity(y):
        if is_identity(x) and is_identity(y):
            return by_ruling(decide(x.sides[-1], y.sides[-1]), "the values of two identities")
        return OTHER_KIND
    if len(x.sides) == len(y.sides) > 2:
        return _same_chain(x, y)
    first, second = (_minus(side.sides[0], side.sides[-1]) for side in (x, y))
    return _proportional(first, second)


def _same_chain(x: Equation, y: Equation) -> Verdict:
    """Compare `a=b=c` with `c=a=b`."""
    remaining = list(y.sides)
    for side in x.sides:
        place = next(
            (i for i, other in enumerate(remaining) if decide(side, other).outcome is Outcome.EQUAL), None
        )
        if place is None:
            return different("different equations", Basis.CONVENTION)
        del remaining[place]
    return equal("a chain of equal sides", Basis.CONVENTION)


def _minus(a: Expression, b: Expression) -> Expression:
    return Expression(Node("add", (a.node, Node("mul", (number(-1), b.node)))))


def _proportional(a: Expression, b: Expression) -> Verdict:
    """Return whether one side is a constant times the other, up to factors that are powers of single unknowns."""
    first, second = exact_form(a), exact_form(b)
    if first is not None and second is not None:
        if _primitive(first.top) == _primitive(second.top):
            return equal("equations up to a constant factor")
        if first.polynomial and second.polynomial:
            return different("different equations", Basis.CONVENTION)
    if a.variables != b.variables:
        return different("different unknowns", Basis.CONVENTION)
    for factor in (1, -1):
        verdict = decide(a, Expression(Node("mul", (number(factor), b.node))))
        if verdict.outcome is Outcome.EQUAL:
            return verdict
    return different("different equations", Basis.CONVENTION)


def _primitive(polynomial: Polynomial) -> tuple[tuple[Monomial, Any], ...]:
    """Return a polynomial up to a constant factor and a power of its atoms: its first coefficient is 1."""
    if not polynomial:
        return ()
    lowest: dict[str, Exponent] = dict(next(iter(polynomial)))
    for monomial in polynomial:
        powers = dict(monomial)
        lowest = {atom: min(power, powers.get(atom, 0)) for atom, power in lowest.items()} | {
            atom: min(power, 0) for atom, power in powers.items() if atom not in lowest
        }
    shift = tuple(
        sorted((atom, -power) for atom, power in lowest.items() if power < 0 and atom.startswith("v:"))
    )
    shifted = {joined(monomial, shift): value for monomial, value in polynomial.items()}
    terms = sorted(shifted.items(), key=lambda term: str(term[0]))
    return tuple((monomial, value / terms[0][1]) for monomial, value in terms)


def compare_relation(x: Relation, y: Reading) -> Verdict:
    """Compare chains by their sides, and single inequalities up to a positive factor."""
    if not isinstance(y, Relation) or len(x.signs) != len(y.signs):
        return OTHER_KIND
    if x.signs == y.signs:
        found = together(decide(a, b) for a, b in zip(x.sides, y.sides, strict=True))
        if found.outcome is Outcome.EQUAL or len(x.signs) > 1:
            return found
    if len(x.signs) > 1:
        return different("different relations", Basis.CONVENTION)
    return _same_half_plane(x, y)


def _same_half_plane(x: Relation, y: Relation) -> Verdict:
    """Compare two inequalities by the differences of their sides, up to a positive factor."""
    forms = [exact_form(_minus(one.sides[0], one.sides[1])) for one in (x, y)]
    if forms[0] is None or forms[1] is None or not (forms[0].top and forms[1].top):
        return UNDECIDED
    try:
        factor = constant_quotient(forms[0], forms[1])
    except TooLarge:
        return UNDECIDED
    same = factor is not None and x.signs[0] == (y.signs[0] if factor > 0 else FLIPPED[y.signs[0]])
    return (
        equal("inequalities up to a positive factor")
        if same
        else different("different inequalities", Basis.CONVENTION)
    )
