"""The kinds of answers of the pocket world, their canonical text, and small exact calculations as text."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import gcd

LIMIT = 2000
"""Strict upper bound of the absolute value of every number in a sound problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An ordered pair of integers, written ``(7, 4)``."""

    first: int
    second: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A set of real numbers between two integers. None is an infinite end, which is always open."""

    low: int | None
    high: int | None
    low_closed: bool = False
    high_closed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Polynomial:
    """``square * x^2 + linear * x + constant``."""

    square: int
    linear: int
    constant: int

    def at(self, x: int) -> int:
        """Return the value at x."""
        return self.square * x * x + self.linear * x + self.constant


Value = int | Fraction | Pair | Interval | Polynomial


def whole(number: Fraction | int) -> int | Fraction:
    """Return the number, as an int if it is an integer."""
    if isinstance(number, int):
        return number
    return number.numerator if number.denominator == 1 else number


def canonical(value: Value) -> str:
    """Return the canonical text of an answer."""
    if isinstance(value, Pair):
        return f"({value.first}, {value.second})"
    if isinstance(value, Interval):
        left = f"{'[' if value.low_closed else '('}{'-' + INFINITY if value.low is None else value.low}"
        right = f"{INFINITY if value.high is None else value.high}{']' if value.high_closed else ')'}"
        return f"{left}, {right}"
    if isinstance(value, Polynomial):
        return polynomial_text(value)
    return str(value)


INFINITY = "\\infty"


def polynomial_text(value: Polynomial) -> str:
    """Return ``x^2 + 7x - 10``: highest power first, without coefficients of 1 and terms of 0."""
    text = ""
    for coefficient, power in ((value.square, "x^2"), (value.linear, "x"), (value.constant, "")):
        if coefficient == 0:
            continue
        size = abs(coefficient)
        term = power if size == 1 and power else f"{size}{power}"
        if text:
            text += f" {'-' if coefficient < 0 else '+'} {term}"
        else:
            text = f"-{term}" if coefficient < 0 else term
    return text or "0"


def in_range(value: Value) -> bool:
    """Return whether every number in the value is small enough for the pocket world."""
    if isinstance(value, Pair):
        return abs(value.first) < LIMIT and abs(value.second) < LIMIT
    if isinstance(value, Interval):
        return abs(value.low or 0) < LIMIT and abs(value.high or 0) < LIMIT
    if isinstance(value, Polynomial):
        return max(abs(value.square), abs(value.linear), abs(value.constant)) < LIMIT
    if isinstance(value, int):
        return abs(value) < LIMIT
    return abs(value.numerator) < LIMIT and value.denominator < LIMIT


def times(a: int, b: int) -> str:
    """Return ``a * b`` computed in small steps: ``3 * 69 = 180 + 27 = 207``."""
    head = f"{a} * {b}"
    small, large = sorted((abs(a), abs(b)))
    if min(a, b) < 0 or large <= 10 or small <= 1:
        return f"{head} = {a * b}"
    if small < 10:
        parts = [small * part for part in place_values(large)]
        return f"{head} = {running_sum(parts)}"
    tens, units = small - small % 10, small % 10
    if small == 10:
        return f"{head} = {a * b}"
    if units == 0:
        return f"{head} = {large} * {small // 10} * 10 = {large * (small // 10)} * 10 = {a * b}"
    first, second = large * tens, large * units
    return f"{head} = {large} * {tens} + {large} * {units} = {first} + {second} = {a * b}"


def place_values(number: int) -> list[int]:
    """Return [100, 60, 9] for 169, without zeros."""
    digits = str(number)
    return [int(d) * 10 ** (len(digits) - 1 - i) for i, d in enumerate(digits) if d != "0"]


def running_sum(parts: list[int]) -> str:
    """Return a sum with one addition at a time, ``2 + 3 + 4 = 5 + 4 = 9``; negative parts are subtracted."""
    shown = [signed_sum(parts)]
    while len(parts) > 2:
        parts = [parts[0] + parts[1], *parts[2:]]
        shown.append(signed_sum(parts))
    if len(parts) == 2:
        shown.append(str(sum(parts)))
    return " = ".join(shown)


def signed_sum(parts: list[int]) -> str:
    """Return ``5 + 3 - 2`` for [5, 3, -2]."""
    return str(parts[0]) + "".join(f" {'-' if part < 0 else '+'} {abs(part)}" for part in parts[1:])


def sign(direction: int) -> str:
    """Return ``+`` for 1 and ``-`` for -1."""
    return "+" if direction > 0 else "-"


def fraction_sum(left: Fraction, right: Fraction) -> str:
    """Return ``3/4 + 1/6 = 9/12 + 2/12 = 11/12``; a negative right side is written as a subtraction."""
    operator, other = ("-", -right) if right < 0 else ("+", right)
    shown = [f"{left} {operator} {other}"]
    bottom = left.denominator * right.denominator // gcd(left.denominator, right.denominator)
    top, change = left.numerator * bottom // left.denominator, right.numerator * bottom // right.denominator
    if (left.denominator, right.denominator) != (bottom, bottom):
        shown.append(f"{top}/{bottom} {operator} {abs(change)}/{bottom}")
    shown.extend(reduced_forms(top + change, bottom))
    return " = ".join(shown)


def reduced_forms(top: int, bottom: int) -> list[str]:
    """Return the fraction and, if different, its lowest terms: ["6/4", "3/2"]; for an integer only ["7"]."""
    raw, lowest = f"{top}/{bottom}", str(Fraction(top, bottom))
    return [lowest] if bottom == 1 or raw == lowest else [raw, lowest]
