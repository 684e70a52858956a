r"""Units of numbers: `5 cm`, `30 km/h`, `2 square metres`, `\$5`, `12 apples`.

A known unit has a dimension and an exact factor; any other word is a label that equals only itself. The base of a number
(`1010_2`) is treated as a unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tasks.answers.expressions import has_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit: `factor` base units of `dimension`. Two quantities are equal if their dimensions and value * factor are."""

    dimension: str
    factor: Fraction


_NAMES: Final[tuple[tuple[str, str, str], ...]] = (
    ("length", "1/1000", "mm millimeter millimetre"),
    ("length", "1/100", "cm centimeter centimetre"),
    ("length", "1/10", "dm decimeter decimetre"),
    ("length", "1", "m meter metre"),
    ("length", "1000", "km kilometer kilometre"),
    ("length", "0.0254", "inch inches"),
    ("length", "0.3048", "ft foot feet"),
    ("length", "0.9144", "yd yard"),
    ("length", "1609.344", "mi mile"),
    ("length unit", "1", "unit"),
    ("mass", "1/1000", "mg milligram"),
    ("mass", "1", "g gram"),
    ("mass", "1000", "kg kilogram"),
    ("mass", "453.59237", "lb pound"),
    ("mass", "28.349523125", "oz ounce"),
    ("time", "1", "s sec second"),
    ("time", "60", "min minute"),
    ("time", "3600", "h hr hour"),
    ("time", "86400", "day"),
    ("time", "604800", "week"),
    ("month", "1", "month"),
    ("month", "12", "year yr"),
    ("volume", "1/1000", "mL ml milliliter millilitre"),
    ("volume", "1", "L l liter litre"),
    ("money", "1", "dollar \\$"),
    ("money", "1/100", "cent"),
    ("angle", "1", "^\\circ"),
)
_BASES: Final = {
    name: Unit(dimension=dimension, factor=Fraction(factor))
    for dimension, factor, names in _NAMES
    for name in names.split()
}
_SPEEDS: Final = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h"}
_PREFIXES: Final = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_LITRES_PER_CUBIC_METRE: Final = 1000

_DOLLARS: Final = re.compile(r"(-?)\\\$(.+)")
_BASED: Final = re.compile(r"(\d+)_(\d|\{\d+\})")
_LABEL: Final = r"[A-Za-z]{3,}(?: [A-Za-z]+){0,2}"
_NO_LABEL: Final = frozenset(  # words that modify the number, or names of Greek letters
    "hundred thousand million billion trillion dozen half halve third quarter fourth fifth sixth seventh eighth ninth "
    "tenth percent more less least most fewer over under plus minus times squared cubed factorial mod modulo base and "
    "not the alpha beta gamma delta theta lambda sigma omega phi".split()
)
_PREFIX: Final = r"(?:(?:square|sq|cubic|cu)\.? ?)?"
_KNOWN: Final = rf"\^\\circ|\\\$|{_PREFIX}[A-Za-z]{{2,}}(?:\^[23])?(?:(?:/| per )[A-Za-z]+(?:\^[23])?)?"
# A single letter is a unit only after a space (from \text{ m} or typed), and only if it is not a common variable name.
_TRAILING: Final = re.compile(
    rf"(?P<value>.*(?:[\d)}}!]|\\pi)) ?(?P<unit>{_KNOWN})"
    rf"|(?P<labelled>.*[\d)}}!])(?: |(?<=[)}}]))(?P<label>{_LABEL})"
    r"|(?P<spaced>.*\d) (?P<letter>[mgshLl](?:\^[23])?(?:/[A-Za-z]+(?:\^[23])?)?)"
)


def split_unit(text: str) -> tuple[str, Unit | None]:
    r"""Split a normalised answer into value and unit: `5 cm` gives ("5", 1/100 metre); without a unit (text, None)."""
    dollars = _DOLLARS.fullmatch(text)
    if dollars:
        return dollars[1] + dollars[2], _BASES["dollar"]
    based = _BASED.fullmatch(text)
    if based:  # 1010_2: the base is a unit, so that an answer without it can be equal
        return based[1], Unit(dimension=f"base {based[2].strip('{}')}", factor=Fraction(1))
    match = _TRAILING.fullmatch(text)
    if match is None:
        return text, None
    value = match["value"] or match["labelled"] or match["spaced"]
    written = match["unit"] or match["label"] or match["letter"]
    unit = parse_unit(written)
    if unit is None or (
        unit.dimension.startswith("label") and text[len(value)] != " " and value[-1] not in ")}"
    ):
        return text, None
    return value, unit


def parse_unit(text: str) -> Unit | None:
    """Parse a known unit, a compound of two such as `km/h`, or a label made of words; None for anything else."""
    text = _SPEEDS.get(text, text)
    above, _, below = text.replace(" per ", "/").partition("/")
    first = _powered(above)
    if not below and first:
        return first
    second = _powered(below) if below else None
    if first and second:
        return Unit(dimension=f"{first.dimension}/{second.dimension}", factor=first.factor / second.factor)
    words = {_singular(word) for word in text.casefold().split()} | set(text.casefold().split())
    if re.fullmatch(_LABEL, text) and has_words(text) and not words & _NO_LABEL:
        return Unit(dimension=f"label {_singular(text.casefold())}", factor=Fraction(1))
    return None


def _powered(text: str) -> Unit | None:
    """Parse `m`, `m^2` or `square metres`. A litre is a thousandth of a cubic metre."""
    prefix, _, rest = text.replace(".", "").partition(" ")
    exponent = _PREFIXES.get(prefix, 1)
    name = rest if prefix in _PREFIXES else text
    if name.endswith(("^2", "^3")):
        exponent, name = exponent * int(name[-1]), name[:-2]
    base = _BASES.get(name) or _BASES.get(_singular(name.lower()))
    if base is None:
        return None
    if base.dimension == "length" and exponent == 3:
        return Unit(dimension="volume", factor=base.factor**3 * _LITRES_PER_CUBIC_METRE)
    dimension = base.dimension if exponent == 1 else f"{base.dimension}^{exponent}"
    return Unit(dimension=dimension, factor=base.factor**exponent)


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 2 else word
