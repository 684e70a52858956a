r"""The meaning of a normalised answer, and equality of two meanings. Pure and fast: no worker process, no sympy.

The rules are symmetric:
- Numbers and expressions are compared by value; `10%` is 0.1; a rounded number differs from the exact one.
- A unit in only one of two answers is ignored; two units must agree after exact conversion (100 cm is 1 m). This is
  the only rule that is not transitive: 5 cm, 5 and 5 m.
- `x = 10` denotes 10. In a list with several names (`x = 1, y = 2`) the names count, and no unnamed list equals it.
- Equations are the same if one is a multiple of the other (`y = 2x + 1` and `2x - y + 1 = 0`).
- Pairs, tuples and intervals are compared in order and with their brackets; sets, bare lists and unions without order.
  A bare list is a set; a set with one element equals that element; `3 < x \le 5` is `(3, 5]`; `\pm a` is a list of two.
- Words are compared as text, ignoring case. If none of these rules applies, the result is undecided (None).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Final

from tasks.answers.arithmetic import multiply
from tasks.answers.expressions import (
    Expression,
    NotAnExpression,
    TooDeep,
    has_words,
    identical,
    number_value,
    parse_expression,
    proportional,
)
from tasks.answers.units import Unit, split_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number or expression, with its unit if one is given."""

    expression: Expression
    unit: Unit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Equation:
    """`difference = 0`."""

    difference: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`name = value`. `strict`: the name counts. `equation`: the same as an equation, if it can be read as one."""

    name: str
    value: Reading
    equation: Equation | None
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """`kind` is the pair of brackets, or, if unordered, `set` (also bare lists), `union` or `names` (`x = 1, y = 2`)."""

    kind: str
    items: tuple[Reading, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verbatim:
    """Words, infinity, the empty set and deeply nested expressions: compared as text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """Notation that this module does not support."""


Reading = Quantity | Equation | Assignment | Collection | Verbatim | Opaque

_MAX_ITEMS: Final = 40
_UNORDERED: Final = ("set", "union", "names")
_MAX_NESTING: Final = 6
_MAX_DEPTH: Final = 30
_SYMBOLS: Final = ("\\infty", "-\\infty", "\\emptyset", "\\mathbb{R}", "\\{\\}")
_SCAN: Final = re.compile(r"\\\{|\\\}|\\[A-Za-z]+|\\.|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|[(){}\[\],;=]")
_OPENING: Final = frozenset(("(", "[", "{", "\\{"))
_CLOSING: Final = frozenset((")", "]", "}", "\\}"))
_NAME: Final = re.compile(r"(?:\\?[A-Za-z]+|[A-Za-z][A-Za-z ]*)(?:_(?:\w|\{\w+\}))?(?:\([A-Za-z]\))?'*")
_MEMBER: Final = re.compile(r"[A-Za-z]\\in(?![A-Za-z])")
_BUILDER: Final = re.compile(
    r"\\\{[A-Za-z](?:\\in ?\\mathbb\{R\})?(?:\||:|\\mid(?![A-Za-z]))(?P<condition>.+)\\\}"
)
_RELATION: Final = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<|>")
_LESS: Final = {"\\le": True, "<": False}
_GREATER: Final = {"\\ge": True, ">": False}
_SIGNS: Final = re.compile(r"\\pm(?![A-Za-z])")


@lru_cache(maxsize=16384)
def read(text: str, nesting: int = 0) -> Reading:
    """Parse a normalised answer of at most `notation.MAX_LENGTH` characters."""
    if nesting > _MAX_NESTING or "\\begin" in text:
        return Opaque()
    if text in _SYMBOLS or _depth(text) > _MAX_DEPTH:
        return Verbatim(text="\\emptyset" if text == "\\{\\}" else text)
    for attempt in (
        _read_list,
        _read_membership,
        _read_equation,
        _read_inequality,
        _read_signs,
        _read_brackets,
    ):
        reading = attempt(text, nesting + 1)
        if reading is not None:
            return reading
    return _read_quantity(text)


def _read_list(text: str, nesting: int) -> Reading | None:
    for kind, separators in (("set", (",", ";", "and", "or")), ("union", ("\\cup",))):
        parts = _split(text, separators)
        if len(parts) < 2:
            continue
        if kind == "set" and has_words(text) and not any(character.isdigit() for character in text):
            return Verbatim(text=text)
        if kind == "set" and all(_RELATION.search(part) for part in parts):  # x < 1 or x > 2
            return Opaque() if "and" in text else _collection("union", parts, nesting)
        return _collection(kind, parts, nesting)
    return None


def _collection(kind: str, parts: Sequence[str], nesting: int) -> Reading:
    if len(parts) > _MAX_ITEMS:
        return Opaque()
    items = tuple(read(part, nesting) for part in parts)
    if kind in _UNORDERED:
        items = tuple(member for item in items for member in _members(item, kind))
    named = [item for item in items if isinstance(item, Assignment)]
    if len(named) == len(items) > 0:
        several = len({item.name for item in named}) > 1
        items = tuple(replace(item, strict=True) if several else item.value for item in named)
        kind = "names" if several else kind
    return Collection(kind=kind, items=items)


def _members(item: Reading, kind: str) -> tuple[Reading, ...]:
    r"""Flatten a list inside a list: `0, \pm 1` has three members."""
    return item.items if isinstance(item, Collection) and item.kind == kind else (item,)


def _read_membership(text: str, nesting: int) -> Reading | None:
    member = _MEMBER.match(text)
    if member:
        return read(text[member.end() :].strip(), nesting)
    builder = _BUILDER.fullmatch(text)
    return read(builder["condition"], nesting) if builder else None


def _read_equation(text: str, nesting: int) -> Reading | None:
    sides = _split(text, ("=",))
    if len(sides) < 2:
        return None
    left, right = sides[0], sides[-1]
    equation = _equation(left, right) if len(sides) == 2 else None
    if _NAME.fullmatch(left):
        name = left.split("(")[0]
        value = read(right, nesting)
        if not (isinstance(value, Quantity) and name in value.expression.variables):
            return Assignment(name=name, value=value, equation=equation)
    return equation or Opaque()


def _equation(left: str, right: str) -> Equation | None:
    try:
        return Equation(difference=parse_expression(f"({left})-({right})"))
    except NotAnExpression:
        return None


def _read_inequality(text: str, nesting: int) -> Reading | None:
    signs = _RELATION.findall(text)
    if not signs:
        return None
    parts = [part.strip() for part in _RELATION.split(text)]
    if all(sign in _GREATER for sign in signs):
        parts.reverse()
        closed = [_GREATER[sign] for sign in reversed(signs)]
    elif all(sign in _LESS for sign in signs):
        closed = [_LESS[sign] for sign in signs]
    else:
        return Opaque()
    if len(parts) == 2 and _is_variable(parts[0]):
        return _interval("-\\infty", parts[1], False, closed[0], nesting)
    if len(parts) == 2 and _is_variable(parts[1]):
        return _interval(parts[0], "\\infty", closed[0], False, nesting)
    if len(parts) == 3 and _is_variable(parts[1]):
        return _interval(parts[0], parts[2], closed[0], closed[1], nesting)
    return Opaque()


def _is_variable(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z]|\\[a-z]+", text) is not None and text not in ("e", "i", "\\pi", "\\infty")


def _interval(low: str, high: str, low_closed: bool, high_closed: bool, nesting: int) -> Collection:
    kind = f"{'[' if low_closed else '('}{']' if high_closed else ')'}"
    return Collection(kind=kind, items=(read(low, nesting), read(high, nesting)))


def _read_signs(text: str, nesting: int) -> Reading | None:
    if len(_SIGNS.findall(text)) != 1 or text.startswith(("(", "[", "\\{")):
        return None
    both = [_SIGNS.sub(lambda _, sign=sign: sign, text) for sign in ("+", "-")]
    return _collection("set", [both[0].removeprefix("+").strip(), both[1].strip()], nesting)


def _read_brackets(text: str, nesting: int) -> Reading | None:
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{") or closing not in _CLOSING or not _encloses(text):
        return None
    parts = _split(text[len(opening) : -len(closing)].strip(), (",", ";"))
    if (opening == "\\{") != (closing == "\\}") or closing == "}":
        return Opaque()
    if opening == "\\{":
        return _collection("set", parts, nesting)
    if len(parts) > 1:
        return _collection(opening + closing, parts, nesting)
    return read(parts[0], nesting) if parts and parts[0] else Opaque()


def _depth(text: str) -> int:
    """Return the nesting depth of the brackets. Math-Verify's parser takes exponential time in it."""
    steps = ((match[0] in _OPENING) - (match[0] in _CLOSING) for match in _SCAN.finditer(text))
    return max(accumulate(steps), default=0)


def _encloses(text: str) -> bool:
    """Return whether the first bracket is closed by the last one."""
    depth = 0
    for match in _SCAN.finditer(text):
        depth += (match[0] in _OPENING) - (match[0] in _CLOSING)
        if depth == 0:
            return match.end() == len(text)
    return False


def _split(text: str, separators: Sequence[str]) -> list[str]:
    """Split at separators outside brackets; the parts are stripped, and empty ones (`1, and 2`) dropped."""
    parts, start, depth = [], 0, 0
    for match in _SCAN.finditer(text):
        depth += (match[0] in _OPENING) - (match[0] in _CLOSING)
        if depth == 0 and match[0] in separators:
            parts.append(text[start : match.start()])
            start = match.end()
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def _read_quantity(text: str) -> Reading:
    value, unit = split_unit(text)
    try:
        expression = parse_expression(value)
    except TooDeep:
        return Verbatim(text=text)
    except NotAnExpression:
        return Verbatim(text=text) if has_words(text) else Opaque()
    if unit is not None and expression.variables:
        return Opaque() if not has_words(text) else Verbatim(text=text)
    return Quantity(expression=expression, unit=unit)


# --- comparing ---------------------------------------------------------------------------------------------------


def same_meaning(a: Reading, b: Reading) -> bool | None:
    """Return whether two answers have the same meaning; None if the rules of this module do not decide."""
    a, b = _unwrapped(a), _unwrapped(b)
    if isinstance(a, Opaque) or isinstance(b, Opaque):
        return None
    if (
        isinstance(a, Assignment)
        or isinstance(b, Assignment)
        or isinstance(a, Equation)
        or isinstance(b, Equation)
    ):
        return _same_equations(a, b)
    if isinstance(a, Quantity) and isinstance(b, Quantity):
        return _same_quantities(a, b)
    if isinstance(a, Collection) and isinstance(b, Collection):
        return _same_collections(a, b)
    if isinstance(a, Verbatim) and isinstance(b, Verbatim):
        return _folded(a.text) == _folded(b.text)
    return False


def both_numeric(a: Reading, b: Reading) -> bool:
    """Return whether both are numbers, with equal units or none, or the same kind of collection of numbers.

    Only then is a `False` from `same_meaning` reliable enough to skip the judge.
    """
    shape = _numbers(a)
    return shape is not None and shape == _numbers(b)


def comparable(a: Reading, b: Reading) -> bool:
    """Return whether both are expressions in the same variables, or both collections.

    Only these can be distinguished by `same_meaning` if both are in simplest form.
    """
    a, b = _unwrapped(a), _unwrapped(b)
    if isinstance(a, Quantity) and isinstance(b, Quantity):
        return a.expression.variables == b.expression.variables
    return isinstance(a, Collection) and isinstance(b, Collection)


@lru_cache(maxsize=16384)
def _numbers(reading: Reading) -> tuple[object, ...] | None:
    """Return the kind of number or collection of numbers; None for anything else."""
    reading = _unwrapped(reading)
    if isinstance(reading, Assignment) and not reading.strict:
        return _numbers(reading.value)
    if isinstance(reading, Quantity):
        if number_value(reading.expression) is None:
            return None
        return ("number",) if reading.unit is None else ("number", reading.unit.dimension)
    if isinstance(reading, Collection):
        inner = {_end(item) for item in reading.items}
        return None if None in inner or len(inner) > 1 else (reading.kind, *inner)
    return None


def _end(item: Reading) -> tuple[object, ...] | None:
    return ("number",) if isinstance(item, Verbatim) and item.text.endswith("\\infty") else _numbers(item)


def _unwrapped(reading: Reading) -> Reading:
    """Replace a set or union of one element by that element."""
    while isinstance(reading, Collection) and reading.kind in _UNORDERED and len(reading.items) == 1:
        reading = reading.items[0]
    return reading


def _same_quantities(a: Quantity, b: Quantity) -> bool | None:
    if a.unit is None or b.unit is None or a.unit == b.unit:
        return identical(a.expression, b.expression)
    if a.unit.dimension != b.unit.dimension:
        return False
    return identical(_scaled(a.expression, a.unit.factor), _scaled(b.expression, b.unit.factor))


def _scaled(expression: Expression, factor: Fraction) -> Expression:
    return replace(expression, value_at=lambda point: multiply(factor, expression.value_at(point)))


def _same_equations(a: Reading, b: Reading) -> bool | None:
    if isinstance(a, Assignment) and isinstance(b, Assignment):
        if a.strict or b.strict:
            return a.name == b.name and same_meaning(a.value, b.value)
        values = same_meaning(a.value, b.value)
        if values is not False or a.equation is None or b.equation is None:
            return values
        return _same_lines(a.equation, b.equation)
    first, second = (side.equation if isinstance(side, Assignment) else side for side in (a, b))
    if isinstance(first, Equation) and isinstance(second, Equation):
        return _same_lines(first, second)
    if isinstance(a, Assignment) and not isinstance(b, Equation):
        return same_meaning(a.value, b)
    if isinstance(b, Assignment) and not isinstance(a, Equation):
        return same_meaning(a, b.value)
    return False


def _same_lines(a: Equation, b: Equation) -> bool | None:
    return proportional(a.difference, b.difference)


def _same_collections(a: Collection, b: Collection) -> bool | None:
    if a.kind != b.kind:
        return False
    if a.kind in _UNORDERED:
        return _all([_any(same_meaning(x, y) for y in b.items) for x in a.items]
                    + [_any(same_meaning(x, y) for x in a.items) for y in b.items])  # fmt: skip
    if len(a.items) != len(b.items):
        return False
    return _all([same_meaning(x, y) for x, y in zip(a.items, b.items, strict=True)])


def _any(answers: Iterable[bool | None]) -> bool | None:
    found = list(answers)
    return True if True in found else None if None in found else False


def _all(answers: Sequence[bool | None]) -> bool | None:
    return False if False in answers else None if None in answers else True


def _folded(text: str) -> str:
    return text.casefold().replace(" ", "")
