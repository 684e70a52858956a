"""Readings of relations: names and their values, equations, inequalities, and lists of named values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from tasks.answers.kinds import expression
from tasks.answers.regions import REALS, Unordered, intersection, ray, solved
from tasks.answers.scan import signs
from tasks.answers.tree import (
    Assignment,
    Equation,
    Items,
    Opaque,
    Reading,
    Region,
    Relation,
    Text,
    Value,
)

Reader = Callable[[str, int], Reading]
_INEQUALITIES: Final = ("<", ">", "\\le", "\\ge", "\\ne")
_RELATIONS: Final = ("=", *_INEQUALITIES)
_OTHER: Final = (
    "\\mid",
    "\\nmid",
    "\\subset",
    "\\subseteq",
    "\\perp",
    "\\parallel",
    "\\notin",
    "\\sim",
    "\\cong",
    "\\to",
)
_LETTER: Final = r"(?:\\(?!frac|sqrt|binom|log|ln|cdot|pm|mp|le|ge|circ)[A-Za-z]+ ?|[A-Za-z])"
_SUBSCRIPTS: Final = r"(?:_(?:\{[^{}]*\}|\w)|'|\^\{?(?:\\prime|-1|\*|\([\w]\))\}?)*"
_ARGUMENTS: Final = r"(?:\([^()=]*(?:=[^()]*)?\))?"
_SIMPLE: Final = rf"{_LETTER}{_SUBSCRIPTS}{_ARGUMENTS}"
_NAME: Final = re.compile(
    rf"{_SIMPLE}|\|[A-Za-z ]+\||(?:\\angle|\\triangle|\\overline|\\vec|\\widehat|\\hat|m\\angle|\\sin|\\cos|\\tan|\\bar) ?"
    rf"(?:\{{[A-Za-z]+\}}|[A-Z]+){_SUBSCRIPTS}|[A-Z]{{2,4}}(?:\^2)?|[A-Z]_\{{?[A-Z0-9]+\}}?"
    rf"|\\frac\{{{_SIMPLE}\}}\{{{_SIMPLE}\}}|{_SIMPLE}(?:[:/]{_SIMPLE})+"
    r"|[A-Za-z][A-Za-z ]{2,60}(?:\([^()]*\))?(?:_\{?\w+\}?)?"
)
_TUPLE_NAME: Final = re.compile(rf"\(({_SIMPLE}(?:, ?{_SIMPLE})+)\)")
_FUNCTION: Final = re.compile(r"([A-Za-z](?:_\w|_\{\w+\})?'*)\(([A-Za-z](?:, ?[A-Za-z])*)\)")
_ROOTS: Final = frozenset(
    ("x", "y", "z", "t", "r", "s", "u", "w", "k", "m", "n", "p", "q", "\\lambda", "\\alpha")
)
"""Names with an index that stand for the solutions in any order, unlike `a_1`, `a_2` of a sequence."""
_SEQUENCE: Final = re.compile(r"([A-Za-z])_\{?([a-z])\}?")


def relation(text: str, nesting: int, reader: Reader) -> Reading | None:
    """Read a text with a relation sign outside brackets; None if it has none."""
    member, parts = signs(text, ("\\in",))
    if member and parts[1:] == ["R"]:
        return REALS
    if member and len(parts) == 2:
        named = _NAME.fullmatch(parts[0])
        return (
            reader(parts[1], nesting)
            if named and expression(parts[0]) is not None
            else Text(text=text.replace(" ", ""))
        )
    if signs(text, _OTHER)[0]:
        return Text(text=text.replace(" ", ""))
    if "\\approx" in text:
        return _approximate(text, nesting, reader)
    found, sides = signs(text, _RELATIONS)
    if not found:
        return None
    if not all(sides):
        if len(sides) > 2 or sides[0]:
            return None
        return reader(sides[1], nesting) if found[0] == "=" else _ray(found[0], sides[1])
    if set(found) == {"="}:
        return assignment(sides, nesting, reader)
    return _inequality(found, sides)


def _ray(sign: str, written: str) -> Reading | None:
    r"""Read `\ge 5`."""
    end = expression(written)
    return None if end is None else ray(sign, Value(expression=end))


def _approximate(text: str, nesting: int, reader: Reader) -> Reading | None:
    left, _, right = text.partition("\\approx")
    if not left.strip() or _NAME.fullmatch(left.strip()):
        return reader(right, nesting)
    return reader(left, nesting)


def assignment(sides: Sequence[str], nesting: int, reader: Reader) -> Reading:
    """Read a chain of sides with equality signs between them."""
    left, right = sides[0], sides[-1]
    coordinates = _TUPLE_NAME.fullmatch(left)
    if coordinates:
        return _coordinates(coordinates[1], right, nesting, reader)
    equation = _equation(sides)
    function = _FUNCTION.fullmatch(left) or _SEQUENCE.fullmatch(left)
    if function:
        bound = tuple(name.strip() for name in function[2].split(","))
        return Assignment(name=function[1], value=reader(right, nesting), equation=equation, bound=bound)
    if _NAME.fullmatch(left):
        value = reader(right, nesting)
        own = isinstance(value, Value) and left in value.expression.variables
        if not own:
            return Assignment(name=left.replace("{", "").replace("}", ""), value=value, equation=equation)
    if equation is not None:
        return equation
    return Assignment(name=left.replace(" ", ""), value=reader(right, nesting), strict=True)


def _coordinates(names: str, right: str, nesting: int, reader: Reader) -> Reading:
    """Read `(x, y) = (1, 2)`, and with several pairs on the right side a list of them."""
    listed = tuple(name.strip() for name in names.split(","))
    value = reader(right, nesting)
    if isinstance(value, Items) and value.kind == "list":
        return Items(kind="list", items=tuple(_labelled(item, listed) for item in value.items))
    return _labelled(value, listed)


def _labelled(item: Reading, names: tuple[str, ...]) -> Reading:
    if isinstance(item, Items) and item.kind == "tuple" and len(item.items) == len(names):
        return replace(item, names=names)
    return item


def _equation(sides: Sequence[str]) -> Equation | None:
    parsed = [expression(side) for side in sides]
    found = tuple(side for side in parsed if side is not None)
    return Equation(sides=found) if len(found) == len(sides) else None


def _inequality(found: list[str], sides: list[str]) -> Reading:
    parsed = [expression(side) for side in sides]
    known = tuple(side for side in parsed if side is not None)
    if len(known) != len(sides):
        written = sides[0] + "".join(sign + side for sign, side in zip(found, sides[1:], strict=True))
        infinite = {"\\infty", "-\\infty"}
        if len(sides) == 3 and sides[0] in infinite | {"-\\infty"}:
            return _inequality(found[1:], sides[1:])
        if len(sides) > 1 and sides[-1] in infinite:
            return _inequality(found[:-1], sides[:-1]) if len(sides) > 2 else Opaque(text=written)
        return Opaque(text=written, wordy=any(re.search(r"[A-Za-z]{4}", side) for side in sides))
    regions = [solved(left, sign, right) for left, sign, right in zip(known, found, known[1:], strict=False)]
    names = {one[0] for one in regions if one is not None}
    if None not in regions and len(names) == 1 and len(sides) <= 3:
        common = _intersected([one[1] for one in regions if one is not None], found, known)
        return replace(common, name=names.pop()) if isinstance(common, Region) else common
    return _ascending(found, known)


def _intersected(regions: list[Region], found: list[str], sides: tuple) -> Reading:  # type: ignore[type-arg]
    try:
        common = regions[0]
        for region in regions[1:]:
            common = intersection(common, region)
        return common
    except Unordered:
        pass
    if len(regions) == 2 and all(len(one.parts) == 1 for one in regions):
        first, second = regions[0].parts[0], regions[1].parts[0]
        low, high = (first, second) if found[0] in ("<", "\\le") else (second, first)
        return Region(parts=(replace(low, high=high.high, high_closed=high.high_closed),))
    return _ascending(found, sides)


def _ascending(found: list[str], sides: tuple) -> Reading:  # type: ignore[type-arg]
    """Return the chain with all signs turned to `<` and `<=`, if they point the same way."""
    if set(found) <= {">", "\\ge"}:
        turned = {">": "<", "\\ge": "\\le"}
        return Relation(signs=tuple(turned[sign] for sign in reversed(found)), sides=tuple(reversed(sides)))
    return Relation(signs=tuple(found), sides=sides)


# --- lists of named values ---------------------------------------------------------------------------------------


def named_items(items: list[Reading], *, alternatives: bool = False) -> Reading:
    """Return a list. If all of its items are named, it is a record, a list of records, or of values of one name.

    The names in alternatives (`x=1 or y=2`) count.
    """
    if len(items) == 1:
        return items[0]
    named = [item for item in items if isinstance(item, Assignment)]
    if len(named) < len(items):
        return _partly_named(items, named)
    names = [item.name for item in named]
    stems = {_stem(name) for name in names}
    if len(stems) == 1 and (len(set(names)) == 1 or stems <= _ROOTS):
        common = tuple(names) if len(set(names)) == 1 else ()
        return Items(kind="list", items=tuple(item.value for item in named), names=common)
    if alternatives:
        return Items(kind="list", items=tuple(replace(item, strict=True) for item in named))
    if len(set(names)) == len(names):
        return record(named)
    size = len(set(names))
    groups = [named[start : start + size] for start in range(0, len(named), size)]
    if all({item.name for item in group} == set(names) and len(group) == size for group in groups):
        return Items(kind="list", items=tuple(record(group) for group in groups))
    return Items(kind="list", items=tuple(items))


def _partly_named(items: list[Reading], named: list[Assignment]) -> Reading:
    """Return `x=2, 3` as two values of x; otherwise a list as it is."""
    if len(named) == 1 and items[0] is named[0] and all(isinstance(item, Value) for item in items[1:]):
        return Items(kind="list", items=(named[0].value, *items[1:]))
    return Items(kind="list", items=tuple(items))


def _stem(name: str) -> str:
    return re.sub(r"_\{?\d+\}?$", "", name)


def record(named: Sequence[Assignment]) -> Items:
    """Return named values in the order of their names."""
    ordered = sorted(named, key=lambda item: item.name)
    return Items(
        kind="tuple",
        items=tuple(item.value for item in ordered),
        brackets="names",
        names=tuple(item.name for item in ordered),
    )
