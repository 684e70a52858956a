"""The structure of a pocket text: definitions of letters, branches with their facts, definitions, one question."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import gcd

from .families import BY_NAME
from .language import CODES, Ending, Slots, is_context
from .values import Interval, Pair, Polynomial, Value, in_range, whole


class Unsound(ValueError):
    """The text has a valid form but no meaningful answer; the message gives the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A letter that replaces a number of the facts (``form`` indexes LETTER_FORMS).

    It is defined by a clause after its first use, ``Mia has a shells, where 2a = 28.``, or by a sentence at the beginning,
    ``Suppose 2a = 28.``
    """

    letter: str
    form: int
    k: int
    m: int
    first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """The facts of one family in one wording, and their ending: asked directly or given a name."""

    family: str
    template: int
    slots: Slots
    ending: Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """``2R - S + 7``: coefficients by name, and a constant."""

    terms: tuple[tuple[int, str], ...]
    constant: Fraction | int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """``pq``."""

    left: str
    right: str


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """``f(3)``."""

    name: str
    point: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """A property in words, such as "the remainder when N is divided by 7"; ``kind`` is a key of PROPERTIES."""

    kind: str
    of: Linear
    k: int = 0


Expression = Linear | Product | At | Property


@dataclass(frozen=True, slots=True, kw_only=True)
class Define:
    """The statement ``Let S = 3R + 7`` or ``Let S be the remainder when R is divided by 7``."""

    name: str
    expression: Expression
    wording: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The statement ``Write R as m/n in lowest terms``."""

    source: str
    top: str
    bottom: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The last sentence, ``Find 3R + 7.``. In a text without it, the last branch is asked directly."""

    verb: str
    expression: Expression


Item = Branch | Define | Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A whole text."""

    items: tuple[Item, ...]
    letters: tuple[Letter, ...] = ()
    question: Question | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """The result of evaluating a text: letters and names with their values, and the answer."""

    answer: Value
    letters: dict[str, int] = field(default_factory=dict)
    names: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyKind:
    """The wording of a property, with ``{e}`` and ``{k}``, and its value for a positive integer up to ``top``."""

    phrase: str
    value: Callable[[int, int], int]
    top: int = 1999


PROPERTIES: dict[str, PropertyKind] = {
    "remainder": PropertyKind(phrase="the remainder when {e} is divided by {k}", value=lambda n, k: n % k),
    "digits": PropertyKind(phrase="the sum of the digits of {e}", value=lambda n, k: sum(map(int, str(n)))),
    "next": PropertyKind(
        phrase="the smallest multiple of {k} greater than {e}", value=lambda n, k: n - n % k + k
    ),
    "below": PropertyKind(
        phrase="the largest multiple of {k} that is at most {e}", value=lambda n, k: n - n % k
    ),
    "common": PropertyKind(phrase="the greatest common divisor of {e} and {k}", value=gcd),
    "larger": PropertyKind(phrase="the larger of the numbers {e} and {k}", value=max),
    "smaller": PropertyKind(phrase="the smaller of the numbers {e} and {k}", value=min),
    "gap": PropertyKind(
        phrase="the distance between {e} and {k} on the number line", value=lambda n, k: abs(n - k)
    ),
    "square": PropertyKind(phrase="the square of {e}", value=lambda n, k: n * n, top=40),
    "first": PropertyKind(
        phrase="the sum of the first {e} positive integers", value=lambda n, k: n * (n + 1) // 2, top=40
    ),
    "divisors": PropertyKind(
        phrase="the number of positive divisors of {e}",
        value=lambda n, k: sum(n % d == 0 for d in range(1, n + 1)),
        top=200,
    ),
}
INTERVAL_PROPERTIES = {
    "count": "the number of integers in {e}",
    "positive": "the number of positive integers in {e}",
    "least": "the smallest integer in {e}",
    "greatest": "the largest integer in {e}",
}
DEFINITIONS = (
    ("Let ", " = ", " be "),
    ("Put ", " = ", " as "),
    ("Suppose ", " = ", " is "),
    ("Define ", " = ", " as "),
)
LETTER_FORMS: tuple[tuple[str, str, Callable[[int, int], Fraction]], ...] = (
    ("Let {L} = {m}.", "{L} = {m}", lambda k, m: Fraction(m)),
    (
        "Let {L} be the number with {L} + {k} = {m}.",
        "{L} is the number with {L} + {k} = {m}",
        lambda k, m: Fraction(m - k),
    ),
    ("Suppose {L} - {k} = {m}.", "{L} - {k} = {m}", lambda k, m: Fraction(m + k)),
    ("Suppose {k}{L} = {m}.", "{k}{L} = {m}", lambda k, m: Fraction(m, k)),
    ("Let {L} be {k} more than {m}.", "{L} is {k} more than {m}", lambda k, m: Fraction(m + k)),
    ("The number {L} satisfies {L} + {k} = {m}.", "{L} + {k} = {m}", lambda k, m: Fraction(m - k)),
    ("Let {L} be the result of {m} / {k}.", "{L} is the result of {m} / {k}", lambda k, m: Fraction(m, k)),
    (
        "Let {L} be the positive number with {k}{L} = {m}.",
        "{L} is the positive number with {k}{L} = {m}",
        lambda k, m: Fraction(m, k),
    ),
)
"""The forms of a letter's definition: as a sentence, as a clause after "where", and the value of the letter."""
MARK = "\0"
"""Precedes a letter while a text is assembled, to tell it from the article "a"."""


def evaluate(node: Node) -> Solved:
    """Return all values of a text, exactly. Raises Unsound if a step has no meaning in the pocket world."""
    letters = {letter.letter: letter_value(letter) for letter in node.letters}
    if len(letters) != len(node.letters):
        raise Unsound("a letter is defined twice")
    names: dict[str, Value] = {}
    direct: Value | None = None
    for item in node.items:
        if direct is not None:
            raise Unsound("something follows the question")
        value = item_value(item, letters, names)
        if isinstance(item, Branch) and item.ending.name is None:
            direct = value
    if not set(letters) <= used_letters(node):
        raise Unsound("a letter is never used")
    if (direct is None) == (node.question is None):
        raise Unsound("not exactly one question")
    answer = direct if node.question is None else expression_value(node.question.expression, names)
    assert answer is not None
    if not in_range(answer):
        raise Unsound("the answer is too large")
    return Solved(answer=answer, letters=letters, names=names)


def letter_value(letter: Letter) -> int:
    """Return the value of a letter. Raises `Unsound` unless it is a positive integer."""
    form = LETTER_FORMS[letter.form]
    if "{k}" in form[0] and letter.k < 1:
        raise Unsound("a letter's equation is degenerate")
    value = form[2](letter.k, letter.m)
    if value.denominator != 1 or value < 1:
        raise Unsound("a letter is not a positive integer")
    return value.numerator


def used_letters(node: Node) -> set[str]:
    """Return the letters that stand for numbers in the branches, and the numbers themselves."""
    return {
        token.lstrip("-")
        for item in node.items
        if isinstance(item, Branch)
        for slot, token in item.slots.items()
        if not is_context(slot)
    }


def item_value(item: Item, letters: Mapping[str, int], names: dict[str, Value]) -> Value | None:
    """Return the value of one item; names that it introduces are added to ``names``."""
    if isinstance(item, Split):
        source = scalar(names, item.source)
        add_name(names, item.top, Fraction(source).numerator)
        add_name(names, item.bottom, Fraction(source).denominator)
        return None
    if isinstance(item, Define):
        value = expression_value(item.expression, names)
        bind(names, item.name, value)
        return value
    value = branch_value(item, letters)
    if item.ending.name is not None:
        if item.ending.introduction == 2 and not (isinstance(value, int) and value > 0):
            raise Unsound("not a positive integer")
        bind(names, item.ending.name, value)
    return value


def branch_numbers(branch: Branch, letters: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers of a branch by slot. Raises Unsound for a letter without a definition."""
    numbers: dict[str, int] = {}
    for slot, token in branch.slots.items():
        if is_context(slot):
            continue
        if token in CODES:
            numbers[slot] = CODES[token]
        elif token.isdigit():
            numbers[slot] = int(token)
        elif token in letters:
            numbers[slot] = letters[token]
        else:
            raise Unsound(f"{token} is not defined")
    return numbers


def branch_value(branch: Branch, letters: Mapping[str, int]) -> Value:
    """Return the answer of a branch. Raises `Unsound` if its facts contradict each other or the value is too large."""
    family = BY_NAME[branch.family]
    numbers = branch_numbers(branch, letters)
    if not family.sound(numbers):
        raise Unsound("the facts are inconsistent")
    value = family.answer(numbers)
    if not in_range(value):
        raise Unsound("a value is too large")
    return value


def bind(names: dict[str, Value], name: str, value: Value) -> None:
    """Name a value; ``(p, q)`` requires a pair, ``f(x)`` a polynomial, a capital letter anything else."""
    if isinstance(value, Pair) and name[0] == "(":
        add_name(names, name[1], value.first)
        add_name(names, name[4], value.second)
    elif isinstance(value, Polynomial) and name.endswith("(x)"):
        add_name(names, name[0], value)
    elif isinstance(value, int | Fraction | Interval) and len(name) == 1:
        add_name(names, name, value)
    else:
        raise Unsound(f"{name} is not a valid name for this kind of value")


def add_name(names: dict[str, Value], name: str, value: Value) -> None:
    """Add the value of a name. Raises `Unsound` if it has one already or the value is too large."""
    if name in names:
        raise Unsound(f"{name} is defined twice")
    if not in_range(value):
        raise Unsound(f"{name} is too large")
    names[name] = value


def scalar(names: Mapping[str, Value], name: str) -> int | Fraction:
    """Return the number with a name. Raises `Unsound` if there is none."""
    value = names.get(name)
    if not isinstance(value, int | Fraction):
        raise Unsound(f"{name} is not a defined number")
    return value


def expression_value(expression: Expression, names: Mapping[str, Value]) -> Value:
    """Return the value of an expression. Raises `Unsound` for a name without a fitting value."""
    if isinstance(expression, Linear):
        return linear_value(expression, names)
    if isinstance(expression, Product):
        return whole(scalar(names, expression.left) * scalar(names, expression.right))
    if isinstance(expression, At):
        polynomial = names.get(expression.name)
        if not isinstance(polynomial, Polynomial):
            raise Unsound(f"{expression.name} is not a defined polynomial")
        return polynomial.at(expression.point)
    return property_value(expression, names)


def linear_value(linear: Linear, names: Mapping[str, Value]) -> int | Fraction:
    """Return the value of a sum of multiples. Raises `Unsound` for a name that is no number."""
    total = Fraction(linear.constant)
    for coefficient, name in linear.terms:
        total += coefficient * scalar(names, name)
    return whole(total)


def property_value(wanted: Property, names: Mapping[str, Value]) -> int:
    """Return the value of a property. Raises `Unsound` if it does not apply to the number or interval."""
    if wanted.kind in INTERVAL_PROPERTIES:
        return interval_property(wanted.kind, names.get(wanted.of.terms[0][1]))
    number, kind = linear_value(wanted.of, names), PROPERTIES[wanted.kind]
    if not isinstance(number, int) or not 1 <= number <= kind.top:
        raise Unsound("the property needs a positive integer")
    if "{k}" in kind.phrase and wanted.k < (
        2 if "multiple" in kind.phrase or "divided" in kind.phrase else 1
    ):
        raise Unsound("the property needs a larger number")
    return kind.value(number, wanted.k)


def interval_property(kind: str, value: Value | None) -> int:
    """Return the value of a property of an interval. Raises `Unsound` if the interval does not have it."""
    if not isinstance(value, Interval):
        raise Unsound("not an interval")
    least = None if value.low is None else value.low + (not value.low_closed)
    greatest = None if value.high is None else value.high - (not value.high_closed)
    if kind == "positive":
        least = 1 if least is None else max(least, 1)
    if kind in ("least", "greatest"):
        end = least if kind == "least" else greatest
        if end is None or (least is not None and greatest is not None and least > greatest):
            raise Unsound("the interval has no such integer")
        return end
    if least is None or greatest is None:
        raise Unsound("infinitely many integers")
    return max(0, greatest - least + 1)


def count_steps(node: Node) -> int:
    """Return the number of calculations: those of every branch, and one per equation, definition and final formula."""
    letters = evaluate(node).letters
    total = sum(letter.form > 0 for letter in node.letters) + (node.question is not None)
    for item in node.items:
        if isinstance(item, Branch):
            total += BY_NAME[item.family].steps(branch_numbers(item, letters))
        else:
            total += 1
    return total


def render(node: Node) -> str:
    """Return the text of a node; ``parse`` is the inverse."""
    parts = [letter_text(letter, 0) for letter in node.letters if letter.first]
    later = {letter.letter: letter_text(letter, 1) for letter in node.letters if not letter.first}
    parts += [item_text(marked(item, later)) for item in node.items]
    if node.question is not None:
        mark = "?" if node.question.verb.startswith("What") else "."
        parts.append(f"{node.question.verb} {expression_text(node.question.expression)}{mark}")
    text = " ".join(parts)
    return with_clauses(text, later) if later else text


def letter_text(letter: Letter, place: int) -> str:
    """Return the definition of a letter as a sentence (``place`` 0) or as a clause (1)."""
    return str(LETTER_FORMS[letter.form][place]).format(L=letter.letter, k=letter.k, m=letter.m)


def marked(item: Item, letters: Mapping[str, str]) -> Item:
    """Return the item with a mark before each of the letters."""
    if not isinstance(item, Branch) or not letters:
        return item
    slots = {s: MARK + t if t in letters and not is_context(s) else t for s, t in item.slots.items()}
    return replace(item, slots=slots)


def with_clauses(text: str, letters: Mapping[str, str]) -> str:
    """Return a text without marks, and with the clause of each letter in the first sentence that contains the letter."""
    seen: set[str] = set()
    sentences = []
    for sentence in re.split(r"(?<=[.?]) ", text):
        new = [letter for letter in dict.fromkeys(re.findall(f"{MARK}(.)", sentence)) if letter not in seen]
        seen.update(new)
        clause = f", where {' and '.join(letters[letter] for letter in new)}" if new else ""
        sentences.append(f"{sentence[:-1]}{clause}{sentence[-1]}".replace(MARK, ""))
    return " ".join(sentences)


def item_text(item: Item) -> str:
    """Return the text of an item."""
    if isinstance(item, Split):
        return f"Write {item.source} as {item.top}/{item.bottom} in lowest terms."
    if isinstance(item, Define):
        before, equals, words = DEFINITIONS[item.wording]
        link = words if isinstance(item.expression, Property) else equals
        return f"{before}{item.name}{link}{expression_text(item.expression)}."
    return BY_NAME[item.family].templates[item.template].render(item.slots, item.ending)


def expression_text(expression: Expression) -> str:
    """Return an expression as it is written in a problem."""
    if isinstance(expression, Linear):
        return linear_text(expression)
    if isinstance(expression, Product):
        return f"{expression.left}{expression.right}"
    if isinstance(expression, At):
        return f"{expression.name}({expression.point})"
    phrase = INTERVAL_PROPERTIES.get(expression.kind) or PROPERTIES[expression.kind].phrase
    return phrase.format(e=linear_text(expression.of), k=expression.k)


def linear_text(linear: Linear) -> str:
    """Return a sum of multiples as it is written in a problem."""
    text = ""
    for coefficient, name in linear.terms:
        size = f"{abs(coefficient)}{name}" if abs(coefficient) != 1 else name
        text += (f" {'-' if coefficient < 0 else '+'} " if text else "-" * (coefficient < 0)) + size
    if linear.constant:
        text += f" {'-' if linear.constant < 0 else '+'} {abs(linear.constant)}"
    return text
