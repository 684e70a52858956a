"""Sets of real numbers as unions of intervals: from inequalities, with union, intersection and complement."""

from __future__ import annotations

from fractions import Fraction
from functools import cmp_to_key
from typing import Final

from tasks.answers.forms import form_of
from tasks.answers.integers import TooLarge, Undefined
from tasks.answers.proof import exact_form, sign_of_difference
from tasks.answers.tree import Expression, Infinite, Interval, Items, Node, Region, Value, number

End = Value | Infinite
MAX_PARTS: Final = 60
REALS: Final = Region(
    parts=(Interval(low=Infinite(sign=-1), high=Infinite(sign=1), low_closed=False, high_closed=False),)
)
FLIPPED: Final = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne", "=": "="}


class Unordered(Exception):
    """The ends of intervals cannot be ordered: they have unknowns, or are too large."""


def point(value: End) -> Interval:
    """Return the interval of one number."""
    return Interval(low=value, high=value, low_closed=True, high_closed=True)


def ray(sign: str, end: End) -> Region:
    """Return the numbers x with `x sign end`."""
    closed = sign in ("\\le", "\\ge")
    if sign == "=":
        return Region(parts=(point(end),))
    below = Interval(low=Infinite(sign=-1), high=end, low_closed=False, high_closed=closed)
    above = Interval(low=end, high=Infinite(sign=1), low_closed=closed, high_closed=False)
    if sign == "\\ne":
        return Region(parts=(below, above))
    return Region(parts=(below if sign in ("<", "\\le") else above,))


def order(a: End, b: End) -> int:
    """Return -1, 0 or 1. Raises `Unordered`."""
    if isinstance(a, Infinite) or isinstance(b, Infinite):
        return _rank(a) - _rank(b)
    found = sign_of_difference(a.expression, b.expression)
    if found is None:
        raise Unordered
    return found


def _rank(end: End) -> int:
    return end.sign if isinstance(end, Infinite) else 0


def merged(region: Region) -> Region:
    """Return the same set with disjoint intervals in ascending order, without empty ones. Raises `Unordered`."""
    if len(region.parts) > MAX_PARTS:
        raise Unordered
    proper = [part for part in region.parts if not _empty(part)]
    proper.sort(key=cmp_to_key(_by_low))
    parts: list[Interval] = []
    for part in proper:
        if parts and _touch(parts[-1], part):
            parts[-1] = _joined(parts[-1], part)
        else:
            parts.append(part)
    return Region(parts=tuple(parts))


def _empty(part: Interval) -> bool:
    found = order(part.low, part.high)
    return found > 0 or (found == 0 and not (part.low_closed and part.high_closed))


def _by_low(a: Interval, b: Interval) -> int:
    return order(a.low, b.low) or (b.low_closed - a.low_closed)


def _touch(a: Interval, b: Interval) -> bool:
    found = order(b.low, a.high)
    return found < 0 or (found == 0 and (a.high_closed or b.low_closed))


def _joined(a: Interval, b: Interval) -> Interval:
    found = order(a.high, b.high)
    high, closed = (a.high, a.high_closed) if found > 0 else (b.high, b.high_closed)
    if found == 0:
        closed = a.high_closed or b.high_closed
    return Interval(low=a.low, high=high, low_closed=a.low_closed, high_closed=closed)


def intersection(a: Region, b: Region) -> Region:
    """Return the common numbers. Raises `Unordered`."""
    if len(a.parts) * len(b.parts) > MAX_PARTS:
        raise Unordered
    return merged(Region(parts=tuple(_common(x, y) for x in a.parts for y in b.parts)))


def _common(a: Interval, b: Interval) -> Interval:
    lower, upper = order(a.low, b.low), order(a.high, b.high)
    low, low_closed = (a.low, a.low_closed) if lower > 0 else (b.low, b.low_closed)
    high, high_closed = (a.high, a.high_closed) if upper < 0 else (b.high, b.high_closed)
    if lower == 0:
        low_closed = a.low_closed and b.low_closed
    if upper == 0:
        high_closed = a.high_closed and b.high_closed
    return Interval(low=low, high=high, low_closed=low_closed, high_closed=high_closed)


def complement(region: Region) -> Region:
    """Return all other real numbers. Raises `Unordered`."""
    low, closed = Infinite(sign=-1), False
    parts: list[Interval] = []
    start: End = low
    for part in merged(region).parts:
        parts.append(Interval(low=start, high=part.low, low_closed=closed, high_closed=not part.low_closed))
        start, closed = part.high, not part.high_closed
    parts.append(Interval(low=start, high=Infinite(sign=1), low_closed=closed, high_closed=False))
    cleaned = [
        Interval(low=one.low, high=one.high, low_closed=one.low_closed and not isinstance(one.low, Infinite),
                 high_closed=one.high_closed and not isinstance(one.high, Infinite))
        for one in parts
    ]  # fmt: skip
    return merged(Region(parts=tuple(cleaned)))


def as_interval(found: Items) -> Region | None:
    """Return a pair in round or square brackets as an interval."""
    if found.kind != "tuple" or len(found.items) != 2 or found.brackets not in ("()", "[]") or found.names:
        return None
    low, high = found.items
    if not isinstance(low, (Value, Infinite)) or not isinstance(high, (Value, Infinite)):
        return None
    closed = found.brackets == "[]"
    return Region(parts=(Interval(low=low, high=high, low_closed=closed, high_closed=closed),))


# --- inequalities ------------------------------------------------------------------------------------------------


def solved(left: Expression, sign: str, right: Expression) -> tuple[str, Region] | None:
    """Return the variable and the solutions of a relation that is linear in one variable, or in its absolute value.

    Of two variables, as in `x < y`, it is the last one in the alphabet.
    """
    names = left.variables | right.variables
    sides = ((left, right, sign), (right, left, FLIPPED[sign]))
    for first, other, relation in sorted(sides, key=lambda side: repr(side[0].node), reverse=True):
        if first.node.op == "var" and first.node.args[0] not in other.variables:
            return first.node.args[0], ray(relation, Value(expression=other))
    if len(names) != 1:
        return None
    (name,) = names
    for first, other, relation in ((left, right, sign), (right, left, FLIPPED[sign])):
        if first.node.op == "fn" and first.node.args[0] == "abs" and not other.variables:
            return _solved_absolute(name, first.node.args[1], relation, other)
    return _solved_linear(name, Node("add", (left.node, Node("mul", (number(-1), right.node)))), sign)


def _solved_linear(name: str, node: Node, sign: str) -> tuple[str, Region] | None:
    """Solve `a x + b sign 0`."""
    form = exact_form(Expression(node))
    atom = ((f"v:{name}", 1),)
    if form is None or len(form.bottom) != 1 or not form.top.keys() <= {(), atom} or atom not in form.top:
        return None
    slope, shift = form.top[atom], form.top.get((), 0)
    root = -shift / slope
    relation = sign if slope > 0 else FLIPPED[sign]
    exact = Expression(number(Fraction(int(root.p), int(root.q))))
    return name, ray(relation, Value(expression=exact))


def _solved_absolute(name: str, inside: Node, sign: str, bound: Expression) -> tuple[str, Region] | None:
    """Solve `|a x + b| sign c`."""
    try:
        if not form_of(inside).top:
            return None
    except (TooLarge, Undefined):
        return None
    negative = Node("mul", (number(-1), bound.node))
    above = _ends(name, inside, sign, bound.node)
    below = _ends(name, inside, FLIPPED[sign], negative)
    if above is None or below is None:
        return None
    if sign in ("<", "\\le"):
        return name, intersection(above, below)
    return (name, Region(parts=above.parts + below.parts)) if sign in (">", "\\ge", "=") else None


def _ends(name: str, inside: Node, sign: str, bound: Node) -> Region | None:
    if inside.op == "var":
        return ray(sign, Value(expression=Expression(bound)))
    found = _solved_linear(name, Node("add", (inside, Node("mul", (number(-1), bound)))), sign)
    return None if found is None else found[1]
