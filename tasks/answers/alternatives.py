r"""Further readings of an answer, each with the ruling that it follows; the literal one is found in `tasks.answers.readings`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Final

from tasks.answers import kinds
from tasks.answers.naming import record
from tasks.answers.tree import (
    Assignment,
    Clock,
    Expression,
    Items,
    Node,
    Opaque,
    Reading,
    Text,
    Unit,
    Value,
    substitute,
)
from tasks.answers.units import parse_unit
from tasks.answers.words import number_of_sentence

Reader = Callable[[str], Reading]
Ruled = tuple[str, Reading]
_GLUED_UNIT: Final = re.compile(r"(.*\d)(s|g|m\^[23])|(.*\\cdot 10\^(?:\d+|\{-?\d+\}))([NJmsgKVWCAT])")
_ARRANGEMENT: Final = re.compile(r"(?<![A-Za-z\\])([CAP])_\{?(\d+|[a-z])\}?\^\{?(\d+|[a-z])\}?")
_EQUAL_NAMES: Final = re.compile(r"((?:[a-z](?:_\d)?=){2,6})([^=]+)")
_POINT: Final = r"[A-Z](?:_\d)?'?(?=\([^()]+,[^()]+\))"
_POINTS: Final = re.compile(rf"{_POINT}\([^()]+\)(?:(?:, | and | ?或|和){_POINT}\([^()]+\))*")
_REMARK: Final = re.compile(
    r"(.+?) ?\((?=[^()]*[A-Za-z]{3})(?![^()]*\b(?:not|extraneous|rejected|discarded|invalid)\b)[^()]*\)"
)
_STATED: Final = re.compile(r".*[A-Za-z]{3,}\b[^=]*? (?:is|are|equals)(?![a-z]) ?(.*)")


def others(text: str, primary: Reading, reader: Reader) -> list[Ruled]:
    """Return further readings of a normalised text with the rulings that they follow."""
    found = [(rule, reader(other)) for rule, other in _respelled(text)]
    if isinstance(primary, Value):
        found += _of_value(text, primary)
    if isinstance(primary, Clock) and ":0" not in text and (other := kinds.ratio(text)) is not None:
        found.append(("a time or a ratio", other))
    if isinstance(primary, Assignment) and (chain := _EQUAL_NAMES.fullmatch(text)):
        value = reader(chain[2])
        named = [Assignment(name=name, value=value) for name in chain[1][:-1].split("=")]
        found.append(("names of one value", record(named)))
    if isinstance(primary, Items):
        found += _of_items(primary)
    if isinstance(primary, (Text, Opaque, Items)):
        found += _of_words(text, reader)
    return found


def _respelled(text: str) -> Iterator[tuple[str, str]]:
    """Yield other spellings of what the text may mean, with the rulings."""
    if re.search(r"\d,\d{3}", text) and not re.search(r"[(\[]|\\\{", text):
        yield "digits grouped by commas, or a list", re.sub(r",(?=\d)", ", ", text)
    if re.fullmatch(r"\d{1,2}(?:, \d{2})+, \d{3}", text):
        yield "digits grouped by commas", text.replace(", ", "")
    if _ARRANGEMENT.search(text):
        yield "numbers of combinations", _ARRANGEMENT.sub(_counted, text)
    if _POINTS.fullmatch(text):
        yield "points with their names", re.sub(_POINT, lambda match: match[0] + "=", text)


def _counted(match: re.Match[str]) -> str:
    r"""Write `C_5^2` as a binomial coefficient, and `A_5^2` as a number of arrangements."""
    letter, whole, part = match.groups()
    if whole.isdigit() and part.isdigit() and int(part) > int(whole):
        return match[0]
    return rf"\binom{{{whole}}}{{{part}}}" if letter == "C" else rf"\frac{{{whole}!}}{{({whole}-{part})!}}"


def _of_value(text: str, primary: Value) -> list[Ruled]:
    found: list[Ruled] = []
    written, names = primary.expression, primary.expression.variables
    if "j" in names and "i" not in written.operations:
        node = substitute(written.node, "j", Node("const", ("i",)))
        found.append(("j as the imaginary unit", Value(expression=Expression(node))))
    found += [("a letter or a unit", one) for one in _letters_or_unit(text, primary)]
    if "deg" in written.operations and written.node.op in ("add", "mul", "div"):
        found.append(
            ("degrees without their sign", Value(expression=Expression(_without_degrees(written.node))))
        )
    if re.fullmatch("[A-H]{2,6}", text) and len(set(text)) == len(text):
        letters = (Value(expression=Expression(Node("var", (letter,)))) for letter in text)
        found.append(("several choices", Items(kind="list", items=tuple(letters))))
    vector = kinds.vector_components(written)
    if vector is not None:
        found.append(("unit vectors", vector))
    return found


def _letters_or_unit(text: str, primary: Value) -> Iterator[Value]:
    r"""Yield `48g` with its unit, and `2 m` and `9.8\frac{m}{s^2}` with the other meaning of the letters."""
    if primary.unit is not None:
        plain = kinds.expression(text)
        if plain is not None and plain.variables:
            yield Value(expression=plain)
        return
    glued = _GLUED_UNIT.fullmatch(text)
    if glued and (amount := kinds.value(glued[1] or glued[3])) is not None:
        unit = parse_unit(glued[2] or glued[4]) or Unit(dimension=f"label {glued[4]}")
        yield Value(expression=amount.expression, unit=unit)
    product = kinds.with_product_of_units(text)
    if product is not None:
        yield product


def _without_degrees(node: Node) -> Node:
    """Remove the signs of degrees outside functions."""
    if node.op == "deg":
        return node.args[0]
    if node.op not in ("add", "mul", "div"):
        return node
    return Node(node.op, tuple(map(_without_degrees, node.args)))


def _of_items(primary: Items) -> list[Ruled]:
    if primary.kind == "tuple" and primary.brackets == "[]" and len(primary.items) > 2:
        return [("square brackets around a list", Items(kind="set", items=primary.items))]
    if primary.kind != "list" or len(primary.items) != 2:
        return []
    if kinds.decimal_of(*primary.items):
        return [("an exact value and its decimal", one) for one in primary.items]
    sizes: set[tuple[str, Fraction]] = set()
    for one in primary.items:
        if not isinstance(one, Value) or one.unit is None or one.expression.node.op != "num":
            return []
        sizes.add((one.unit.dimension, one.expression.node.args[0] * one.unit.factor))
    return [("the same quantity in two units", one) for one in primary.items] if len(sizes) == 1 else []


def _of_words(text: str, reader: Reader) -> list[Ruled]:
    found: list[Ruled] = []
    if re.fullmatch(r"-?\d+(?: -?\d+){1,20}", text):
        found.append(("numbers separated by spaces", reader(text.replace(" ", ", "))))
    stated = _STATED.fullmatch(text)
    if stated and len(re.findall(r" (?:is|are|equals)(?![a-z])", text)) > 1:
        stated = None
    for rule, match in (
        ("a remark in parentheses", _REMARK.fullmatch(text)),
        ("a sentence that states a value", stated),
    ):
        if match and isinstance(inner := reader(match[1]), (Value, Items)):
            found.append((rule, inner))
    mentioned = number_of_sentence(text)
    if mentioned is not None:
        found.append(("a sentence with one number", reader(mentioned)))
    return found
