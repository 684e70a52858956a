"""Readings of answers that are one number or one small object: values with units, times, ratios, bases, residues, choices."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Final

from tasks.answers.parser import NotAnExpression, parse_expression
from tasks.answers.proof import exact_form
from tasks.answers.scan import depth, signs
from tasks.answers.tree import (
    MAX_DEPTH,
    Based,
    Clock,
    Congruence,
    Expression,
    Infinite,
    Items,
    Node,
    Ratio,
    Reading,
    Unit,
    Value,
    number,
)
from tasks.answers.units import parse_unit, split_unit
from tasks.answers.words import number_in_words

_INFINITE: Final = re.compile(r"([-+]?)(?:\\infty|infinity|oo|inf|infinite|\\text ?infinity)", re.IGNORECASE)
_CLOCK: Final = re.compile(r"(\d{1,2}):(\d{2})(?::00)? ?(?:([ap])\.* ?m?\.*)?", re.IGNORECASE)
_HOUR: Final = re.compile(r"(\d{1,2}) ?(?:([ap])\.? ?m\.?|o'clock)", re.IGNORECASE)
_HOURS: Final = {
    "noon": Clock(hours=12, minutes=0, half="p"), "midnight": Clock(hours=12, minutes=0, half="a"),
}  # fmt: skip
_BASED: Final = re.compile(
    r"(-?)(?:\\overline\{|\()?([0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?)[})]?"
    r"(?:_\{? ?\(?(\d+|[a-z]+)\)? ?\}?| ?\(? ?(?:in )?base[ -]?(\d+|[a-z]+)\)?)"
)
_BASE_NAMES: Final = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "twelve": 12,
    "sixteen": 16,
}  # fmt: skip
_MODULO: Final = re.compile(r"(.+?) ?(?:\\pmod|\(\\?mod|\\mod|mod(?:ulo)?(?![a-z])) ?\{?([^{}()]+?)\}?\)?")
_COMPOUND: Final = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)\.?(?:,? (?:and )?| ?)")
_SCALED: Final = re.compile(r"(-?[\d.,]+) ?(hundred|thousand|million|billion|trillion)(?: ([A-Za-z]+))?")
_ARC: Final = re.compile(r"(-?)(\d+)\^\\circ ?(\d{1,2})'(?: ?(\d{1,2})(?:''|\"))?")
_UNIT_PRODUCT: Final = re.compile(r"(.*[\d)}]) ?([A-Za-z]+(?:\\cdot ?[A-Za-z]+)+)")
_UNIT_FRACTION: Final = re.compile(
    r"(.*[\d)}]) ?\\frac ?\{ ?([A-Za-z]+(?:\^\d)?) ?\}\{ ?([A-Za-z]+(?:\^\{?\d\}?)?) ?\}"
)
_REPEATED: Final = re.compile(r"(-?)(\d+)\.(\d*?)((\d+?)\5{2,})\\ldots ?")
_PROGRESSION: Final = re.compile(r"(\d{1,9}(?:\+\d{1,9})+)\+\\ldots ?\+(.+)")
_ORDINAL: Final = re.compile(
    r"(\d+)(?:\^ ?\{? ?)?(?:st|nd|rd|th)\}?(?: ?(?:place|term|day|grade|floor))?", re.IGNORECASE
)
_SPACED_UNIT: Final = re.compile(
    r"[\d)}] [A-Za-z]{1,2}(?![A-Za-z])[\^{}/\d A-Za-z]*$|\^\\circ ?[CF]$|\d ?\\Omega$|-\d\}$"
)


@lru_cache(maxsize=16384)
def expression(text: str) -> Expression | None:
    """Parse a normalised expression; None if it is outside the grammar."""
    if not text or depth(text) > MAX_DEPTH // 2:
        return None
    try:
        return parse_expression(text)
    except NotAnExpression:
        return None


def infinite(text: str) -> Infinite | None:
    """Read plus or minus infinity."""
    match = _INFINITE.fullmatch(text)
    return None if match is None else Infinite(sign=-1 if match[1] == "-" else 1)


def clock(text: str) -> Clock | None:
    """Read a time of day."""
    if text.casefold() in _HOURS:
        return _HOURS[text.casefold()]
    match = _CLOCK.fullmatch(text)
    if match and int(match[1]) < 25 and int(match[2]) < 60:
        return Clock(hours=int(match[1]), minutes=int(match[2]), half=(match[3] or "").lower())
    match = _HOUR.fullmatch(text)
    if match and 0 < int(match[1]) < 13:
        return Clock(hours=int(match[1]), minutes=0, half=(match[2] or "").lower())
    return None


def ratio(text: str) -> Ratio | None:
    """Read `3:4` and `3 to 4`."""
    _, parts = signs(re.sub(r"(?<=\d) to (?=\d)", ":", text), (":",))
    if not 2 <= len(parts) <= 8:
        return None
    found = [expression(part) for part in parts]
    return Ratio(parts=tuple(one for one in found if one)) if None not in found else None


def based(text: str) -> Based | None:
    """Read the digits of a number with its base as a subscript."""
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    written = match[3] or match[4]
    base = int(written) if written.isdigit() else _BASE_NAMES.get(written, 0)
    digits = match[2].lower()
    if not 2 <= base <= 36 or any(int(digit, 36) >= base for digit in digits.replace(".", "")):
        return None
    return Based(digits=match[1] + digits.lstrip("0").rjust(1, "0"), base=base)


def based_value(reading: Based) -> Fraction:
    """Return the number that the digits denote."""
    whole, _, part = reading.digits.lstrip("-").partition(".")
    value = Fraction(int((whole or "0") + part, reading.base), reading.base ** len(part))
    return -value if reading.digits.startswith("-") else value


def congruence(text: str) -> Congruence | None:
    r"""Read `3 \pmod 7` and `n \equiv 0, 1 \pmod 4`."""
    match = _MODULO.fullmatch(text)
    if match is None or "\\bmod" in text:
        return None
    left = match[1].rpartition("\\equiv")[2] if "\\equiv" in match[1] else match[1].rpartition("=")[2]
    parts = [part.strip() for part in re.split(r", ?| or | and ", left)]
    signed = [part.replace("\\pm", sign).replace("+", "") if "\\pm" in part else part for part in parts for sign in
              ("+-" if "\\pm" in part else "+")]  # fmt: skip
    residues = [expression(part.strip()) for part in signed]
    modulus = expression(match[2].strip())
    if modulus is None or None in residues:
        return None
    return Congruence(residues=tuple(one for one in residues if one), modulus=modulus)


def value(text: str) -> Value | None:
    """Read a number or expression, with its unit if it has one."""
    spaced = _SPACED_UNIT.search(text)
    if spaced:
        found = split_unit(text)
        if found is not None and not found[1].dimension.startswith("label"):
            return _with_unit(*found) or compound(text)
    arc = _ARC.fullmatch(text)
    if arc:
        degrees = int(arc[2]) + Fraction(int(arc[3]), 60) + Fraction(int(arc[4] or 0), 3600)
        return Value(
            expression=Expression(number(-degrees if arc[1] else degrees)), unit=parse_unit("^\\circ")
        )
    plain = None if _ORDINAL.fullmatch(text) else expression(text)
    if plain is not None:
        return _of_expression(text, plain)
    spelled = _spelled(text)
    if spelled is not None:
        return spelled
    found = split_unit(text)
    return (
        (_with_unit(*found) if found is not None else None) or with_product_of_units(text) or compound(text)
    )


def _of_expression(text: str, plain: Expression) -> Value:
    if plain.node.op == "deg":
        inside = Expression(plain.node.args[0], places=plain.places)
        return Value(expression=inside, unit=parse_unit("^\\circ"))
    if plain.node.op == "mul" and plain.node.args[0] == number(-1) and plain.node.args[1].op == "deg":
        inside = Expression(Node("mul", (number(-1), plain.node.args[1].args[0])))
        return Value(expression=inside, unit=parse_unit("^\\circ"))
    return Value(expression=plain, percent=text.endswith("%"))


def with_product_of_units(text: str) -> Value | None:
    r"""Read `9.8\frac{m}{s^2}` and `5 N\cdot m`; None if a factor is no known unit."""
    match = _UNIT_FRACTION.fullmatch(text) or _UNIT_PRODUCT.fullmatch(text)
    unit = parse_unit(match[2] if match.re is _UNIT_PRODUCT else f"{match[2]}/{match[3]}") if match else None
    if match is None or unit is None or unit.dimension.startswith("label"):
        return None
    return _with_unit(match[1], unit)


def _with_unit(amount: str, unit: Unit) -> Value | None:
    inside = value(amount)
    if inside is None or inside.unit is not None:
        return None
    return Value(expression=inside.expression, unit=unit, percent=inside.percent)


def _spelled(text: str) -> Value | None:
    """Read numbers in words, `3 million`, ordinals and repeating decimals that end in dots."""
    if not text or not (text[-1].isalpha() or text.endswith(("\\ldots", "\\ldots ", "}", "%"))):
        return None
    if text.endswith("%"):
        count = number_in_words(text[:-1])
        return None if count is None else Value(expression=Expression(number(count / 100)), percent=True)
    repeated = _REPEATED.fullmatch(text)
    if repeated:
        sign, whole, lead, _, cycle = repeated.groups()
        exact = expression(f"{sign}{whole}.{lead}\\overline{{{cycle}}}")
        return None if exact is None else Value(expression=exact)
    scaled = _SCALED.fullmatch(text)
    if scaled and (amount := expression(scaled[1])) is not None:
        scale = number_in_words(f"one {scaled[2]}")
        unit = parse_unit(scaled[3]) if scaled[3] else None
        assert scale is not None
        if unit is None and scaled[3]:
            return None
        return Value(expression=Expression(Node("mul", (amount.node, number(scale)))), unit=unit)
    ordinal = _ORDINAL.fullmatch(text)
    raised = re.fullmatch(r"(.+) (squared|cubed)", text)
    if raised and (base := expression(raised[1])) is not None:
        return Value(
            expression=Expression(Node("pow", (base.node, number(2 if raised[2] == "squared" else 3))))
        )
    words = Fraction(ordinal[1]) if ordinal else number_in_words(text)
    return None if words is None else Value(expression=Expression(number(words)))


def compound(text: str) -> Value | None:
    """Read `5 feet 3 inches` and `2 hours and 30 minutes` as one quantity."""
    position, total, dimension = 0, Fraction(0), ""
    for match in _COMPOUND.finditer(text):
        unit = parse_unit(match[2])
        if match.start() != position or unit is None or (dimension and unit.dimension != dimension):
            return None
        total, position, dimension = total + Fraction(match[1]) * unit.factor, match.end(), unit.dimension
    if position < len(text) or not dimension or dimension.startswith("label"):
        return None
    return Value(expression=Expression(number(total)), unit=Unit(dimension=dimension))


def progression_sum(text: str) -> Value | None:
    r"""Read `1+3+\ldots+(2n-1)`, a sum of an arithmetic progression whose last term is linear, in closed form."""
    match = _PROGRESSION.fullmatch(text)
    if match is None:
        return None
    first = [Fraction(term) for term in match[1].split("+")]
    last = expression(match[2])
    steps = {b - a for a, b in pairwise(first)}
    if last is None or len(steps) != 1 or 0 in steps or len(last.variables) > 1:
        return None
    form = exact_form(last)
    if form is None or not form.polynomial or any(sum(power for _, power in one) > 1 for one in form.top):
        return None
    step, start = number(steps.pop()), number(-first[0])
    count = Node("add", (Node("div", (Node("add", (last.node, start)), step)), number(1)))
    ends = Node("add", (last.node, number(first[0])))
    return Value(expression=Expression(Node("div", (Node("mul", (ends, count)), number(2)))))


def vector_components(written: Expression) -> Reading | None:
    r"""Return `2\vec{i} + 3\vec{j}` as (2, 3)."""
    axes = ["\\vec i", "\\vec j", "\\vec k"]
    if not written.variables or not written.variables <= set(axes):
        return None
    form = exact_form(written)
    used = axes if "\\vec k" in written.variables else axes[:2]
    if form is None or len(form.bottom) != 1 or not all(len(one) == 1 and one[0][1] == 1 for one in form.top):
        return None
    values = [form.top.get(((f"v:{axis}", 1),), 0) for axis in used]
    if sum(bool(value) for value in values) != len(form.top):
        return None
    exact = [Fraction(int(value.p), int(value.q)) if value else Fraction(0) for value in values]
    return Items(
        kind="tuple", items=tuple(Value(expression=Expression(number(one))) for one in exact), brackets="()"
    )


def decimal_of(x: Reading, y: Reading) -> bool:
    """Return whether one of two numbers is a decimal that is equal to the other, or has 12 digits or more that agree."""
    if not (isinstance(x, Value) and isinstance(y, Value)):
        return False
    forms = [exact_form(one.expression) for one in (x, y)]
    values = [None if form is None else form.rational for form in forms]
    if values[0] is None or values[1] is None:
        return False
    places = [one.expression.places or 0 for one in (x, y)]
    if values[0] == values[1]:
        return max(places) > min(places)
    return max(places) >= 8 > min(places) and abs(values[0] - values[1]) * 10**11 <= abs(values[0])


def constant(reading: Reading) -> bool:
    """Return whether a reading is a number without unknowns or unit."""
    return isinstance(reading, Value) and reading.unit is None and not reading.expression.variables
