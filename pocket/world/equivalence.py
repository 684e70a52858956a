"""Pairs of answers in the styles of language models; half are equivalent, half are near misses."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd

from .values import INFINITY, Interval, Pair, Polynomial, Value, canonical, whole

NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
UNITS = (
    "apples",
    "dollars",
    "cm",
    "miles",
    "shells",
    "points",
    "km",
    "hours",
    "stamps",
    "metres",
    "books",
    "litres",
)
DECIMAL_PLACES = {2: 1, 4: 2, 5: 1, 10: 1, 20: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class EquivalencePair:
    """Two answers, the simplest form of each, and whether they are equivalent."""

    first: str
    second: str
    first_canonical: str
    second_canonical: str
    equivalent: bool


def equivalence_pair(rng: random.Random) -> EquivalencePair:
    """Draw two answers, which are equivalent with probability 1/2. Equivalent answers are written differently."""
    value = rng.choice(DRAWS)(rng)
    same = rng.random() < 0.5
    other = value if same else near_miss(value, rng)
    first, second = written(value, rng), written(other, rng)
    while same and first == second:
        first, second = written(value, rng), written(other, rng)
    return EquivalencePair(
        first=first,
        second=second,
        first_canonical=canonical(value),
        second_canonical=canonical(other),
        equivalent=same,
    )


def draw_whole(rng: random.Random) -> Value:
    """Return a whole number of one to five digits."""
    return rng.choice(
        (rng.randint(0, 20), rng.randint(2, 99), rng.randint(100, 1999), rng.randint(1000, 99999))
    )


def draw_fraction(rng: random.Random) -> Value:
    """Return a fraction in lowest terms."""
    bottom = rng.randint(2, 30)
    top = rng.randint(1, 40)
    while gcd(top, bottom) > 1:
        top = rng.randint(1, 40)
    return Fraction(top, bottom)


def draw_decimal(rng: random.Random) -> Value:
    """Return a number with at most two decimal places."""
    return whole(Fraction(rng.randint(1, 60), rng.choice((2, 4, 5, 10))))


def draw_pair(rng: random.Random) -> Value:
    """Return a pair of two different numbers."""
    first = rng.randint(0, 60)
    return Pair(first=first, second=rng.choice([n for n in range(1, 60) if n != first]))


def draw_interval(rng: random.Random) -> Value:
    """Return an interval, bounded on one side or on both."""
    low, shape = rng.randint(-20, 40), rng.randrange(3)
    return Interval(
        low=low if shape else None,
        high=None if shape == 1 else low + rng.randint(2, 20),
        low_closed=bool(shape) and rng.random() < 0.5,
        high_closed=shape != 1 and rng.random() < 0.5,
    )


def draw_polynomial(rng: random.Random) -> Value:
    """Return a polynomial of degree one or two; one of degree two has integer roots."""
    a, b = rng.randint(1, 12), rng.choice([n for n in range(-9, 13) if n])
    if rng.random() < 0.7:
        return Polynomial(square=1, linear=a + b, constant=a * b)
    return Polynomial(square=0, linear=rng.randint(2, 30), constant=rng.randint(1, 60))


DRAWS: tuple[Callable[[random.Random], Value], ...] = (
    draw_whole,
    draw_fraction,
    draw_fraction,
    draw_decimal,
    draw_pair,
    draw_interval,
    draw_polynomial,
)


def written(value: Value, rng: random.Random) -> str:
    """Return the value in one of the styles in which models write it."""
    if isinstance(value, int):
        return written_whole(value, rng)
    if isinstance(value, Fraction):
        return written_fraction(value, rng)
    if isinstance(value, Pair):
        return written_pair(value, rng)
    if isinstance(value, Interval):
        return written_interval(value, rng)
    return written_polynomial(value, rng)


def written_whole(n: int, rng: random.Random) -> str:
    """Write a whole number in one of its forms: digits, words, with a unit, as a quotient."""
    forms = [str(n), f"${n}$", f"x = {n}", f"{n} {rng.choice(UNITS)}", f"{n}.0", f"{n}."]
    if n < len(NUMBER_WORDS):
        forms += [NUMBER_WORDS[n]] * 2
    if n >= 1000:
        forms += [f"{n:,}"] * 2
    k = rng.randint(2, 6)
    if 1 <= n <= 20 and n * k <= 60:
        forms.append(f"{n * k}/{k}")
    return rng.choice(forms)


def written_fraction(value: Fraction, rng: random.Random) -> str:
    """Write a fraction in one of its forms: lowest terms, expanded, as a decimal."""
    top, bottom = value.numerator, value.denominator
    limit = max(1, min(6, 60 // max(top, bottom)))
    k = rng.randint(2, limit) if limit >= 2 else 1
    forms = [f"{top}/{bottom}", f"\\frac{{{top}}}{{{bottom}}}", f"${top}/{bottom}$", f"x = {top}/{bottom}"]
    if k > 1:
        forms += [
            f"{top * k}/{bottom * k}",
            f"\\frac{{{top * k}}}{{{bottom * k}}}",
            f"{top * k}/{bottom * k}",
        ]
    if bottom in DECIMAL_PLACES:
        forms += [f"{float(value):.{DECIMAL_PLACES[bottom]}f}"] * 3
    if top > bottom:
        forms.append(f"{top // bottom} {top % bottom}/{bottom}")
    return rng.choice(forms)


def written_pair(value: Pair, rng: random.Random) -> str:
    """Write a pair as a tuple or as the values of x and y."""
    a, b = value.first, value.second
    return rng.choice(
        (
            f"({a}, {b})",
            f"({a},{b})",
            f"x = {a}, y = {b}",
            f"x={a}, y={b}",
            f"${(a, b)}$",
            f"x = {a} and y = {b}",
            f"(x, y) = ({a}, {b})",
            f"y = {b}, x = {a}",
        )
    )


def written_interval(value: Interval, rng: random.Random) -> str:
    """Write an interval in brackets or as an inequality."""
    shown = canonical(value)
    less = {False: ("<", "<"), True: ("\\leq", "<=")}
    more = {False: (">", ">"), True: ("\\geq", ">=")}
    style = rng.randrange(2)
    if value.low is None:
        chain = f"x {less[value.high_closed][style]} {value.high}"
    elif value.high is None:
        chain = f"x {more[value.low_closed][style]} {value.low}"
    else:
        chain = f"{value.low} {less[value.low_closed][style]} x {less[value.high_closed][style]} {value.high}"
    return rng.choice(
        (
            shown,
            shown.replace(", ", ","),
            f"${shown}$",
            chain,
            chain,
            f"x \\in {shown}",
            shown.replace(INFINITY, "oo"),
        )
    )


def written_polynomial(value: Polynomial, rng: random.Random) -> str:
    """Write a polynomial expanded, with its terms in any order, or factored."""
    shown = canonical(value)
    forms = [shown, f"${shown}$", reordered(value, rng), reordered(value, rng)]
    factors = factored(value)
    if factors is not None:
        forms += [factors[0], factors[1], factors[0]]
    return rng.choice(forms)


def reordered(value: Polynomial, rng: random.Random) -> str:
    """Return the terms in another order: ``7x + x^2 + 10``."""
    parts = [(value.square, "x^2"), (value.linear, "x"), (value.constant, "")]
    parts = [(c, power) for c, power in parts if c]
    rng.shuffle(parts)
    text = ""
    for coefficient, power in parts:
        size = abs(coefficient)
        term = power if size == 1 and power else f"{size}{power}"
        text += (f" {'-' if coefficient < 0 else '+'} " if text else "-" * (coefficient < 0)) + term
    return text


def factored(value: Polynomial) -> tuple[str, str] | None:
    """Return ``(x + 2)(x + 5)`` in both orders, or None if the roots are not integers."""
    if value.square != 1 or not value.constant:
        return None
    for a in range(-abs(value.constant), abs(value.constant) + 1):
        if a and value.constant % a == 0 and a + value.constant // a == value.linear:
            left, right = (f"(x {'-' if r < 0 else '+'} {abs(r)})" for r in (a, value.constant // a))
            return left + right, right + left
    return None


def near_miss(value: Value, rng: random.Random) -> Value:
    """Return a different value that looks similar."""
    while True:
        other = missed(value, rng)
        if other != value:
            return other


def missed(value: Value, rng: random.Random) -> Value:
    """Return another value of the same kind, as a mistake gives it."""
    if isinstance(value, int):
        return missed_whole(value, rng)
    if isinstance(value, Fraction):
        return missed_fraction(value, rng)
    if isinstance(value, Pair):
        return rng.choice(
            (
                Pair(first=value.second, second=value.first),
                replace(value, first=value.first + 1),
                replace(value, second=missed_whole(value.second, rng)),
            )
        )
    if isinstance(value, Interval):
        return missed_interval(value, rng)
    return rng.choice(
        (
            replace(value, constant=-value.constant),
            replace(value, linear=value.linear + rng.choice((-1, 1, 2))),
            replace(value, constant=value.constant + rng.choice((-1, 1, 10))),
            replace(value, linear=-value.linear),
        )
    )


def missed_whole(n: int, rng: random.Random) -> int:
    """Change one digit, swap two digits, add or subtract 1, or multiply by ten."""
    digits = list(str(n))
    i = rng.randrange(len(digits))
    swapped = [*digits]
    if len(digits) > 1:
        j = rng.randrange(len(digits) - 1)
        swapped[j], swapped[j + 1] = swapped[j + 1], swapped[j]
    changed = [*digits]
    changed[i] = str((int(changed[i]) + rng.choice((1, 2, 8, 9))) % 10)
    return rng.choice((int("".join(changed)), int("".join(swapped)), n + 1, abs(n - 1), n * 10))


def missed_fraction(value: Fraction, rng: random.Random) -> Value:
    """Return another fraction: inverted, or with a top or bottom that is off by one."""
    top, bottom = value.numerator, value.denominator
    return whole(
        rng.choice(
            (
                Fraction(bottom, top),
                Fraction(top + 1, bottom),
                Fraction(top, bottom + 1),
                Fraction(max(1, top - 1), bottom),
                Fraction(top, max(2, bottom - 1)),
                value + 1,
            )
        )
    )


def missed_interval(value: Interval, rng: random.Random) -> Interval:
    """Change a bracket, move an end, or take the other side of the number line."""
    if value.low is None or value.high is None:
        bound = value.high if value.low is None else value.low
        closed = value.high_closed or value.low_closed
        assert bound is not None
        bound, closed = rng.choice(
            ((bound, not closed), (bound + rng.choice((-1, 1)), closed), (-bound, closed))
        )
        upward = (value.high is None) != (rng.random() < 0.25)
        if upward:
            return Interval(low=bound, high=None, low_closed=closed)
        return Interval(low=None, high=bound, high_closed=closed)
    return rng.choice(
        (
            replace(value, low_closed=not value.low_closed),
            replace(value, high_closed=not value.high_closed),
            replace(value, high=value.high + 1),
            replace(value, low=value.low - 1),
        )
    )
