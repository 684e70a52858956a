"""Comparing the readings of two answers. Every verdict names the rule or the proof that it rests on.

The rulings are listed, with an example each, in docs/answers.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Final

from tasks.answers.equations import compare_relation, is_identity, same_lines, statement_value
from tasks.answers.kinds import constant
from tasks.answers.objects import (
    compare_based,
    compare_clock,
    compare_congruence,
    compare_ratio,
    progression_of,
    same_progression,
)
from tasks.answers.proof import decide, sign_of_difference
from tasks.answers.regions import Unordered, as_interval, merged
from tasks.answers.tree import (
    Answer,
    Assignment,
    Based,
    Choice,
    Clock,
    Congruence,
    Equation,
    Expression,
    Infinite,
    Interval,
    Items,
    Node,
    Opaque,
    Ratio,
    Reading,
    Region,
    Relation,
    Text,
    Value,
    number,
    substitute,
)
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
    weaker,
)

MACHINE_DIGITS: Final = 12
_MAX_RENAMED: Final = 3
_INTEGER_NAMES: Final = frozenset("klmnj")
_CONSTANT: Final = re.compile(r"[cC]_\d|[cCK]")
"""Names of constants of integration."""
_RADIANS: Final = frozenset(("pi", "arcsin", "arccos", "arctan", "arccot"))
_PARAMETERS: Final = re.compile(r"[abcdkmpqABCDK](?:_\w+)?")


@dataclass(frozen=True, slots=True)
class Context:
    """The names that either answer declares as arbitrary. `whole`: one of them declares them as integers."""

    first: frozenset[str] = frozenset()
    second: frozenset[str] = frozenset()
    whole: bool = False


_Rule = Callable[[Any, Reading, Context], Verdict]


def compare_answers(a: Answer, b: Answer) -> Verdict:
    """Return the verdict on two answers: of their literal readings, or else of the first pair of readings that are equal."""
    context = Context(a.dummies, b.dummies, "in Z" in a.conditions + b.conditions)
    literal = compare(a.readings[0], b.readings[0], context)
    if a.conditions and b.conditions and a.conditions != b.conditions:
        return different("different conditions", Basis.CONVENTION)
    if literal.outcome is Outcome.EQUAL:
        return literal if a.conditions == b.conditions else weaker(literal, "conditions on one side only")
    best = literal
    for i, (x, first) in enumerate(zip(a.readings, a.rules, strict=True)):
        for j, (y, second) in enumerate(zip(b.readings, b.rules, strict=True)):
            if i == j == 0 or (i and j and first == second):
                continue
            found = compare(x, y, context)
            if found.outcome is Outcome.EQUAL and found.basis is not Basis.LENIENT:
                return equal(first or second, Basis.CONVENTION)
            if found.outcome is Outcome.EQUAL and best.outcome is not Outcome.EQUAL:
                best = found
    several = len(a.readings) + len(b.readings) > 2
    uncertain = best.outcome is Outcome.DIFFERENT and best.basis is Basis.PROOF and several
    return different(best.rule, Basis.CONVENTION) if uncertain else best


def compare(x: Reading, y: Reading, context: Context = Context()) -> Verdict:
    """Return the verdict on two readings."""
    x, y = _unwrapped(x), _unwrapped(y)
    for kind, rule in _RULES:
        if isinstance(x, kind) or isinstance(y, kind):
            return rule(x, y, context) if isinstance(x, kind) else _turned(rule, x, y, context)
    return _compare_values(x, y, context) if isinstance(x, Value) and isinstance(y, Value) else OTHER_KIND


def _turned(rule: _Rule, x: Reading, y: Reading, context: Context) -> Verdict:
    return rule(y, x, Context(context.second, context.first, context.whole))


def _unwrapped(reading: Reading) -> Reading:
    """Replace a list or set of one element by that element, and a region of points by the set of these points."""
    while isinstance(reading, Items) and reading.kind != "tuple" and len(reading.items) == 1:
        reading = reading.items[0]
    if isinstance(reading, Region) and reading.parts and all(_is_point(part) for part in reading.parts):
        return Items(kind="set", items=tuple(part.low for part in reading.parts))
    return reading


def _is_point(part: Interval) -> bool:
    return part.low is part.high


# --- opaque, text, choices ---------------------------------------------------------------------------------------


def _compare_opaque(x: Opaque, y: Reading, _: Context) -> Verdict:
    if isinstance(y, Opaque) and x.text.replace(" ", "") == y.text.replace(" ", ""):
        return equal("the same text", Basis.CONVENTION)
    wordy = x.wordy or isinstance(y, Text) or (isinstance(y, Opaque) and y.wordy)
    return different("different texts", Basis.CONVENTION) if wordy else UNDECIDED


def _compare_text(x: Text, y: Reading, _: Context) -> Verdict:
    if isinstance(y, Text) and x.text.replace(" ", "") == y.text.replace(" ", ""):
        return equal("the same words", Basis.CONVENTION)
    if isinstance(y, Infinite) and x.text in ("infinitely many", "infinite") and y.sign > 0:
        return equal("infinite", Basis.CONVENTION)
    return different("different words", Basis.CONVENTION)


def _compare_choice(x: Choice, y: Reading, context: Context) -> Verdict:
    if isinstance(y, Choice):
        if x.letter == y.letter:
            return equal("the same choice", Basis.CONVENTION)
        return different("different choices", Basis.CONVENTION)
    if isinstance(y, Value) and y.expression.node == Node("var", (x.letter,)):
        return equal("a choice by its letter", Basis.CONVENTION)
    return weaker(compare(x.content, y, context), "a choice by its content")


# --- equations and names -----------------------------------------------------------------------------------------


def _compare_assignment(x: Assignment, y: Reading, context: Context) -> Verdict:
    if isinstance(y, Assignment):
        return _two_assignments(x, y, context)
    if isinstance(y, Equation):
        return same_lines(x.equation, y) if x.equation is not None else OTHER_KIND
    if isinstance(y, Items) and y.kind == "tuple" and y.brackets == "names":
        return OTHER_KIND
    return by_ruling(compare(x.value, y, context), "a name on one side only")


def _two_assignments(x: Assignment, y: Assignment, context: Context) -> Verdict:
    if x.name != y.name and (
        x.strict or y.strict or (bool(x.bound) != bool(y.bound) and "(" in x.name + y.name)
    ):
        return different("different left sides", Basis.CONVENTION)
    bound = Context(context.first | set(x.bound), context.second | set(y.bound), context.whole)
    if x.bound != y.bound and len(x.bound) == len(y.bound) and isinstance(y.value, Value):
        y = replace(y, value=_with_names(y.value, y.bound, x.bound), bound=x.bound)
    values = compare(x.value, y.value, bound)
    if values.outcome is Outcome.EQUAL:
        return (
            values
            if x.name == y.name and x.bound == y.bound
            else weaker(values, "names that only the problem defines")
        )
    if x.name == y.name and (x.bound or y.bound) and values.outcome is Outcome.DIFFERENT:
        renamed = _renamed(x.value, y.value, bound, parameters=True)
        if renamed is not None:
            return renamed
    if x.equation is not None and y.equation is not None and not x.bound and not y.bound:
        lines = same_lines(x.equation, y.equation)
        if lines.outcome is Outcome.EQUAL:
            return lines
    return values


def _compare_equation(x: Equation, y: Reading, context: Context) -> Verdict:
    if isinstance(y, Equation):
        return same_lines(x, y)
    statement = statement_value(x)
    if statement is not None:
        return by_ruling(compare(Value(expression=statement), y, context), "the value of a statement")
    if isinstance(y, Value) and is_identity(x):
        sides = [compare(Value(expression=side), y, context) for side in x.sides]
        return by_ruling(sides[-1], "a chain of equal forms")
    if isinstance(y, Value) and y.unit is None and len(x.sides) > 2:
        return weaker(compare(Value(expression=x.sides[-1]), y, context), "the last side of a chain")
    return OTHER_KIND


# --- values ------------------------------------------------------------------------------------------------------


def _compare_values(x: Value, y: Value, context: Context) -> Verdict:
    if x.unit is not None and y.unit is not None:
        return _two_quantities(x, y)
    found = decide(x.expression, y.expression)
    if x.unit is not None or y.unit is not None:
        return _one_unit(x, y, found)
    if found.outcome is Outcome.EQUAL:
        return found
    if x.percent != y.percent:
        hundredth, other = (x, y) if x.percent else (y, x)
        number_before = Expression(Node("mul", (hundredth.expression.node, number(100))))
        if decide(number_before, other.expression).outcome is Outcome.EQUAL:
            return equal("a percent sign on one side only", Basis.LENIENT)
    if context.whole and same_progression(x.expression, y.expression):
        return equal("the same progression", Basis.CONVENTION)
    if x.expression.variables != y.expression.variables or len(_constants(x) | _constants(y)) > 1:
        renamed = _renamed(x, y, context, parameters=False)
        return renamed or found
    machine = _machine_number(x.expression, y.expression)
    return machine or found


def _two_quantities(x: Value, y: Value) -> Verdict:
    assert x.unit is not None and y.unit is not None
    if x.unit == y.unit:
        return decide(x.expression, y.expression)
    if x.unit.dimension != y.unit.dimension:
        return different("different kinds of unit", Basis.CONVENTION)
    return decide(_in_base_units(x), _in_base_units(y))


def _in_base_units(value: Value) -> Expression:
    assert value.unit is not None
    node = Node("mul", (value.expression.node, number(value.unit.factor)))
    return Expression(Node("div", (node, Node("const", ("pi",)))) if value.unit.over_pi else node)


def _one_unit(x: Value, y: Value, found: Verdict) -> Verdict:
    if found.outcome is Outcome.EQUAL:
        return weaker(found, "a unit on one side only")
    bare, quantity = (x, y) if x.unit is None else (y, x)
    if (
        quantity.unit is not None
        and quantity.unit.dimension == "angle"
        and bare.expression.operations & _RADIANS
    ):
        degrees = Expression(
            Node("div", (Node("mul", (bare.expression.node, number(180))), Node("const", ("pi",))))
        )
        if decide(degrees, _in_base_units(quantity)).outcome is Outcome.EQUAL:
            return equal("degrees and radians", Basis.CONVENTION)
    return weaker(found, "a unit on one side only")


def _machine_number(a: Expression, b: Expression) -> Verdict | None:
    """Return equality of an exact value and a decimal of at least 12 digits that agrees with it as far as it goes."""
    if (a.places is None) == (b.places is None) or a.variables or b.variables:
        return None
    decimal, exact = (a, b) if b.places is None else (b, a)
    value, places = decimal.node.args[0], decimal.places or 0
    if not places or len(str(abs(value.numerator * 10**places // value.denominator))) < MACHINE_DIGITS:
        return None
    tolerance = abs(value) / 10 ** (MACHINE_DIGITS - 1)
    return (
        equal("a decimal of 12 digits or more", Basis.CONVENTION) if within(exact, value, tolerance) else None
    )


def within(exact: Expression, value: object, tolerance: object) -> bool:
    """Return whether a constant is within a tolerance of a number."""
    low, high = (Expression(number(value + sign * tolerance)) for sign in (-1, 1))  # type: ignore[operator]
    return sign_of_difference(low, exact) in (-1, 0) and sign_of_difference(exact, high) in (-1, 0)


def _renamed(x: Reading, y: Reading, context: Context, *, parameters: bool) -> Verdict | None:
    """Return equality up to names that are arbitrary: declared ones, parameters of a function, k and n in `4k+1`."""
    if not isinstance(x, Value) or not isinstance(y, Value):
        return None
    kept = (x.expression.variables & y.expression.variables) - _constants(x)
    first, second = sorted(x.expression.variables - kept), sorted(y.expression.variables - kept)
    if len(first) != len(second) or not 0 < len(first) <= _MAX_RENAMED:
        return None
    for names, dummies, value in ((first, context.first, x), (second, context.second, y)):
        allowed = (
            dummies
            | _constants(value)
            | (_INTEGER_NAMES if progression_of(value.expression) else frozenset())
        )
        if not all(name in allowed or (parameters and _PARAMETERS.fullmatch(name)) for name in names):
            return None
    for chosen in permutations(second):
        renamed = _with_names(y, chosen, first)
        if decide(x.expression, renamed.expression).outcome is Outcome.EQUAL:
            return equal("arbitrary names", Basis.CONVENTION)
    return None


def _with_names(value: Value, old: Sequence[str], new: Sequence[str]) -> Value:
    """Replace names by others, all at once."""
    node = value.expression.node
    for place, name in enumerate(old):
        node = substitute(node, name, Node("var", (f"\\{place}",)))
    for place, name in enumerate(new):
        node = substitute(node, f"\\{place}", Node("var", (name,)))
    return replace(value, expression=Expression(node))


def _constants(value: Value) -> frozenset[str]:
    return frozenset(filter(_CONSTANT.fullmatch, value.expression.variables))


def _compare_infinite(x: Infinite, y: Reading, _: Context) -> Verdict:
    if isinstance(y, Infinite):
        return equal("infinite") if x.sign == y.sign else different("infinities of different sign")
    if isinstance(y, Value) and y.expression.variables:
        return OTHER_KIND
    return different("an infinity and a number") if isinstance(y, Value) else OTHER_KIND


# --- collections -------------------------------------------------------------------------------------------------


def _compare_items(x: Items, y: Reading, context: Context) -> Verdict:
    if isinstance(y, Region):
        listed = x.items if x.kind == "list" else (x,)
        intervals = [as_interval(one) if isinstance(one, Items) else None for one in listed]
        if None in intervals:
            return OTHER_KIND
        found = _same_regions(Region(parts=tuple(one.parts[0] for one in intervals if one)), y)
        return weaker(found, "a union and a list of intervals") if x.kind == "list" else found
    if not isinstance(y, Items):
        return OTHER_KIND
    if x.kind == "tuple" and y.kind == "tuple":
        return _two_tuples(x, y, context)
    if "tuple" in (x.kind, y.kind):
        return _names_omitted(x, y, context)
    return _same_members(x, y, context)


def _two_tuples(x: Items, y: Items, context: Context) -> Verdict:
    if x.names and y.names and set(x.names) == set(y.names):
        place = dict(zip(y.names, y.items, strict=True))
        return together(
            compare(item, place[name], context) for name, item in zip(x.names, x.items, strict=True)
        )
    if "rows" in (x.brackets, y.brackets) and x.brackets != y.brackets:
        return _column(x, y, context)
    if len(x.items) != len(y.items):
        return _different_counts(x, y)
    brackets = {x.brackets, y.brackets}
    if x.names and y.names and "names" in brackets:
        return different("different names", Basis.CONVENTION)
    found = together(compare(a, b, context) for a, b in zip(x.items, y.items, strict=True))
    if len(brackets) == 1 and brackets != {"case"}:
        return found
    if brackets == {"case"}:
        return weaker(found, "cases of a function")
    if brackets == {"()", "[]"} and len(x.items) < 3:
        return different("round and square brackets", Basis.CONVENTION)
    return weaker(
        found, "coordinates with and without names" if "names" in brackets else "brackets of a list"
    )


def _column(x: Items, y: Items, context: Context) -> Verdict:
    """Compare a column with a tuple."""
    rows, other = (x, y) if x.brackets == "rows" else (y, x)
    cells = [row.items for row in rows.items if isinstance(row, Items)]
    if (
        other.brackets not in ("()", "[]")
        or any(len(row) != 1 for row in cells)
        or len(cells) != len(other.items)
    ):
        return OTHER_KIND
    pairs = zip((row[0] for row in cells), other.items, strict=True)
    return weaker(together(compare(a, b, context) for a, b in pairs), "a column vector and coordinates")


def _names_omitted(x: Items, y: Items, context: Context) -> Verdict:
    """Compare `AB=4, CD=5` with `4, 5`, which only grading accepts."""
    record, plain = (x, y) if x.kind == "tuple" else (y, x)
    named = bool(plain.names) or any(isinstance(item, Assignment) for item in plain.items)
    if record.brackets != "names" or plain.kind != "list" or named or len(record.items) != len(plain.items):
        return OTHER_KIND
    found = together(compare(a, b, context) for a, b in zip(record.items, plain.items, strict=True))
    return (
        weaker(found, "names on one side only", Basis.LENIENT)
        if found.outcome is Outcome.EQUAL
        else OTHER_KIND
    )


def _same_members(x: Items, y: Items, context: Context) -> Verdict:
    """Compare lists and sets without order: lists with multiplicity, two sets without."""
    first, second = list(x.items), list(y.items)
    simple = all(isinstance(item, (Value, Infinite)) for item in first + second)
    if x.kind == y.kind == "set" or not simple:
        first, second = _distinct(first, context), _distinct(second, context)
    if len(first) != len(second):
        return _different_counts(x, y)
    found: list[Verdict] = []
    for item in first:
        verdicts = [compare(item, other, context) for other in second]
        place = next((i for i, verdict in enumerate(verdicts) if verdict.outcome is Outcome.EQUAL), None)
        if place is None:
            undecided = [verdict for verdict in verdicts if verdict.outcome is Outcome.UNDECIDED]
            return undecided[0] if undecided else _absent(verdicts)
        found.append(verdicts[place])
        del second[place]
    result = together(found)
    repeated = x.kind != y.kind and len(_distinct(list(x.items), context)) < len(x.items)
    return weaker(result, "a set and a list with repeated items") if repeated else result


def _absent(verdicts: Sequence[Verdict]) -> Verdict:
    certain = all(verdict.certain for verdict in verdicts)
    return different("an item without a counterpart", Basis.PROOF if certain else Basis.CONVENTION)


def _distinct(items: list[Reading], context: Context) -> list[Reading]:
    kept: list[Reading] = []
    for item in items:
        if not any(compare(item, other, context).outcome is Outcome.EQUAL for other in kept):
            kept.append(item)
    return kept


def _different_counts(x: Items, y: Items) -> Verdict:
    certain = x.kind == y.kind and all(constant(item) for item in x.items + y.items)
    return different("different numbers of items", Basis.PROOF if certain else Basis.CONVENTION)


def _compare_region(x: Region, y: Reading, _: Context) -> Verdict:
    if not isinstance(y, Region):
        return OTHER_KIND
    return _same_regions(x, y)


def _same_regions(x: Region, y: Region) -> Verdict:
    written = x.parts, y.parts
    try:
        written = merged(x).parts, merged(y).parts
    except Unordered:
        if len(x.parts) != len(y.parts):
            return UNDECIDED
    if len(written[0]) != len(written[1]):
        return different("different sets of numbers")
    return together(_same_intervals(a, b) for a, b in zip(*written, strict=True))


def _same_intervals(a: Interval, b: Interval) -> Verdict:
    if (a.low_closed, a.high_closed) != (b.low_closed, b.high_closed):
        return different("open and closed ends")
    return together((compare(a.low, b.low), compare(a.high, b.high)))


def _of_objects(rule: Callable[[Any, Reading], Verdict]) -> _Rule:
    return lambda x, y, _: rule(x, y)


_RULES: Final[tuple[tuple[type, _Rule], ...]] = (
    (Choice, _compare_choice),
    (Opaque, _compare_opaque),
    (Text, _compare_text),
    (Assignment, _compare_assignment),
    (Equation, _compare_equation),
    (Relation, _of_objects(compare_relation)),
    (Items, _compare_items),
    (Region, _compare_region),
    (Ratio, _of_objects(compare_ratio)),
    (Clock, _of_objects(compare_clock)),
    (Based, _of_objects(compare_based)),
    (Congruence, _of_objects(compare_congruence)),
    (Infinite, _compare_infinite),
)
