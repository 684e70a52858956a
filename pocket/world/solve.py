"""Step-by-step solutions of pocket texts, by one of several routes and in one of many wordings."""

from __future__ import annotations

import random
from collections.abc import Mapping
from fractions import Fraction

from .families import BY_NAME
from .families.integers import divisor_formula, divisor_pairs, euclid
from .parse import parse
from .tree import (
    INTERVAL_PROPERTIES,
    At,
    Branch,
    Define,
    Expression,
    Item,
    Letter,
    Linear,
    Node,
    Product,
    Property,
    Split,
    branch_numbers,
    evaluate,
    expression_text,
    expression_value,
    letter_value,
    linear_value,
    scalar,
)
from .values import (
    Interval,
    Pair,
    Polynomial,
    Value,
    canonical,
    fraction_sum,
    running_sum,
    times,
)

PLANS = (
    "We go step by step.",
    "Let us take the facts in order.",
    "All we need is careful counting.",
    "Here is one way to do it.",
    "Each step uses only small numbers.",
    "Everything follows from the text.",
    "This can be worked out directly.",
    "One step after the other works best.",
)
OPENERS = (
    "First, ",
    "To start, ",
    "We see that ",
    "At the beginning, ",
    "Note that ",
    "Initially, ",
    "As a first step, ",
    "Clearly, ",
)
LINKS = (
    "Then ",
    "Next, ",
    "Now ",
    "After that, ",
    "From here, ",
    "Further, ",
    "Moreover, ",
    "In the next step, ",
    "Also, ",
    "Here ",
)
CLOSERS = (
    "The answer is ",
    "So the answer is ",
    "Therefore the result is ",
    "This gives the answer ",
    "Hence we get ",
    "In the end we find ",
    "Our result is ",
    "We conclude with ",
)


def solution(text: str, rng: random.Random, *, steps: bool = True) -> str:
    r"""Return a correct solution that ends in ``\boxed{answer}``, with or without the steps.

    Raises ValueError if the text is not a sound pocket text.
    """
    node = parse(text)
    if node is None:
        raise ValueError("not a sound pocket text, so it has no solution: check its wording")
    return solve(node, rng, steps=steps)


def solve(node: Node, rng: random.Random, *, steps: bool = True) -> str:
    """Like ``solution``, for a parsed text."""
    solved = evaluate(node)
    statements = [letter_statement(letter) for letter in node.letters]
    names: dict[str, Value] = dict(solved.names)
    for item in node.items:
        statements += item_statements(item, solved.letters, names, rng)
    if node.question is not None:
        statements += expression_statements(node.question.expression, "", names, rng)
    return connect(statements if steps else [], canonical(solved.answer), rng)


def connect(statements: list[str], answer: str, rng: random.Random) -> str:
    """Join statements to sentences of three statements each, with random connecting words."""
    groups = ["; ".join(statements[start : start + 3]) for start in range(0, len(statements), 3)]
    sentences = [rng.choice(PLANS), *(f"{rng.choice(OPENERS)}{group}." for group in groups[:1])]
    sentences += [f"{rng.choice(LINKS)}{group}." for group in groups[1:]]
    return " ".join([*sentences, f"{rng.choice(CLOSERS)}\\boxed{{{answer}}}."])


def letter_statement(letter: Letter) -> str:
    """Return ``a = 19 - 5 = 14``."""
    shown = {
        0: "",
        1: f"{letter.m} - {letter.k} = ",
        2: f"{letter.m} + {letter.k} = ",
        3: f"{letter.m} / {letter.k} = ",
        4: f"{letter.m} + {letter.k} = ",
        5: f"{letter.m} - {letter.k} = ",
        6: f"{letter.m} / {letter.k} = ",
        7: f"{letter.m} / {letter.k} = ",
    }[letter.form]
    return f"{letter.letter} = {shown}{letter_value(letter)}"


def item_statements(
    item: Item, letters: Mapping[str, int], names: Mapping[str, Value], rng: random.Random
) -> list[str]:
    """Return the statements of the solution about one item."""
    if isinstance(item, Split):
        number = Fraction(scalar(names, item.source))
        return [
            f"{item.source} = {number.numerator}/{number.denominator}, "
            f"which means {item.top} = {number.numerator} and {item.bottom} = {number.denominator}"
        ]
    if isinstance(item, Define):
        return expression_statements(item.expression, item.name, names, rng)
    return branch_statements(item, letters, rng)


def branch_statements(branch: Branch, letters: Mapping[str, int], rng: random.Random) -> list[str]:
    """Return the statements that compute a branch, by one of the routes of its family."""
    family, numbers = BY_NAME[branch.family], branch_numbers(branch, letters)
    statements = rng.choice(family.routes)(numbers)
    name = branch.ending.name
    if name is not None:
        statements = [*statements, name_statement(name, family.answer(numbers))]
    return statements


def name_statement(name: str, value: Value) -> str:
    """Return ``R = 23``, ``p = 7 and q = 4``, ``f(x) = x^2 + 2x`` or ``J = [3, 8)``."""
    if isinstance(value, Pair):
        return f"{name[1]} = {value.first} and {name[4]} = {value.second}"
    return f"{name} = {canonical(value)}"


def expression_statements(
    expression: Expression, name: str, names: Mapping[str, Value], rng: random.Random
) -> list[str]:
    """Return the steps to the value of an expression; with a name they end in ``name = value``."""
    if isinstance(expression, Property):
        return property_statements(expression, name, names, rng)
    shown = name or expression_text(expression)
    if isinstance(expression, Product):
        left, right = scalar(names, expression.left), scalar(names, expression.right)
        if isinstance(left, int) and isinstance(right, int):
            return [f"{shown} = {times(left, right)}"]
        return [f"{shown} = {left} * {right} = {canonical(expression_value(expression, names))}"]
    if isinstance(expression, At):
        polynomial = names[expression.name]
        assert isinstance(polynomial, Polynomial)
        return [f"{shown} = {polynomial_steps(polynomial, expression.point)}"]
    return linear_statements(expression, shown, names)


def polynomial_steps(polynomial: Polynomial, x: int) -> str:
    """Return ``3^2 + 7 * 3 + 10 = 9 + 21 + 10 = 40``."""
    parts, shown = [], ""
    for coefficient, power in ((polynomial.square, 2), (polynomial.linear, 1), (polynomial.constant, 0)):
        if not coefficient:
            continue
        size = abs(coefficient)
        factor = f"{size} * " if size > 1 else ""
        text = {2: f"{factor}{x}^2", 1: f"{factor}{x}", 0: str(size)}[power]
        shown += (f" {'-' if coefficient < 0 else '+'} " if shown else "-" * (coefficient < 0)) + text
        parts.append(coefficient * x**power)
    values = running_sum(parts)
    return values if shown == values else f"{shown} = {values}"


def linear_statements(linear: Linear, shown: str, names: Mapping[str, Value]) -> list[str]:
    """Return ``3 * 23 = 60 + 9 = 69`` if needed, then ``S = 3 * 23 + 7 = 69 + 7 = 76``."""
    values = [(coefficient, scalar(names, name)) for coefficient, name in linear.terms]
    if any(isinstance(value, Fraction) for _, value in values) or isinstance(linear.constant, Fraction):
        return fraction_statements(linear, shown, names)
    numbers = [(coefficient, int(value)) for coefficient, value in values]
    extra = [times(abs(c), v) for c, v in numbers if abs(c) > 1 and v > 10]
    constant = int(linear.constant)
    parts = [c * v for c, v in numbers] + ([constant] if constant else [])
    plain = running_sum(parts)
    if any(value < 0 for _, value in numbers) or all(abs(c) == 1 for c, _ in numbers):
        return [*extra, f"{shown} = {plain}"]
    spelled = ""
    for c, v in numbers:
        term = f"{abs(c)} * {v}" if abs(c) > 1 else str(v)
        spelled += (f" {'-' if c < 0 else '+'} " if spelled else "-" * (c < 0)) + term
    if constant:
        spelled += f" {'-' if constant < 0 else '+'} {abs(constant)}"
    return [*extra, f"{shown} = {spelled} = {plain}"]


def fraction_statements(linear: Linear, shown: str, names: Mapping[str, Value]) -> list[str]:
    """Add one term after the other, each sum over a common denominator."""
    statements: list[str] = []
    total: Fraction | None = None
    terms = [(Fraction(c), Fraction(scalar(names, name))) for c, name in linear.terms]
    if linear.constant:
        terms.append((Fraction(1), Fraction(linear.constant)))
    for coefficient, value in terms:
        product = coefficient * value
        if abs(coefficient) != 1:
            raw = f"{coefficient.numerator * value.numerator}/{value.denominator}"
            middle = f" = {raw}" if value.denominator > 1 and raw != str(product) else ""
            statements.append(f"{coefficient} * {value}{middle} = {product}")
        if total is not None:
            statements.append(fraction_sum(total, product))
        total = product if total is None else total + product
    return [*statements, f"{shown} = {linear_value(linear, names)}"]


def property_statements(
    wanted: Property, name: str, names: Mapping[str, Value], rng: random.Random
) -> list[str]:
    """Return the statements that compute a property; the last one gives it a name, if it has one."""
    value = expression_value(wanted, names)
    tail = [f"{name} = {canonical(value)}"] if name else []
    if wanted.kind in INTERVAL_PROPERTIES:
        interval = names[wanted.of.terms[0][1]]
        assert isinstance(interval, Interval)
        return [interval_statement(wanted.kind, interval, canonical(value)), *tail]
    number = linear_value(wanted.of, names)
    assert isinstance(number, int)
    plain = len(wanted.of.terms) == 1 and wanted.of.terms[0][0] == 1 and not wanted.of.constant
    head = [] if plain else linear_statements(wanted.of, expression_text(wanted.of), names)
    return [*head, *number_property(wanted.kind, number, wanted.k, rng), *tail]


def interval_statement(kind: str, interval: Interval, value: str) -> str:
    """Return the statement about a property of an interval."""
    shown = canonical(interval)
    words = {
        "count": f"the number of integers in {shown} is {value}",
        "positive": f"the number of positive integers in {shown} is {value}",
        "least": f"the smallest integer in {shown} is {value}",
        "greatest": f"the largest integer in {shown} is {value}",
    }
    return words[kind]


def number_property(kind: str, n: int, k: int, rng: random.Random) -> list[str]:
    """Return the steps to one property of the positive integer ``n``."""
    if kind == "remainder":
        below = n - n % k
        return rng.choice(
            (
                [f"{n} = {n // k} * {k} + {n % k}", f"the remainder is {n % k}"],
                [f"the largest multiple of {k} up to {n} is {below}", f"{n} - {below} = {n % k}"],
            )
        )
    if kind == "digits":
        digits = [int(d) for d in str(n)]
        return [f"the digits of {n} are {', '.join(map(str, digits))}", f"their sum is {running_sum(digits)}"]
    if kind in ("next", "below"):
        head = f"{n} = {n // k} * {k} + {n % k}"
        return [
            head,
            f"the multiple is {n // k + 1} * {k} = {n - n % k + k}"
            if kind == "next"
            else f"the multiple is {n // k} * {k} = {n - n % k}",
        ]
    if kind == "common":
        return euclid({"a": n, "b": k}) if n != k else [f"both numbers are {n}"]
    if kind in ("larger", "smaller"):
        sign = "<" if n < k else ">" if n > k else "="
        return [f"{n} {sign} {k}, and the {kind} one is {max(n, k) if kind == 'larger' else min(n, k)}"]
    if kind == "gap":
        return [f"the distance is {max(n, k)} - {min(n, k)} = {abs(n - k)}"]
    if kind == "square":
        return [f"the square is {times(n, n)}"]
    if kind == "first":
        return [f"{n} * {n + 1} / 2 = {n * (n + 1)} / 2 = {n * (n + 1) // 2}"]
    return divisor_statements(n, rng)


def divisor_statements(n: int, rng: random.Random) -> list[str]:
    """Return the statements that count the divisors of n."""
    if n == 1:
        return ["the number 1 has 1 divisor"]
    return rng.choice((divisor_formula, divisor_pairs))({"n": n})
