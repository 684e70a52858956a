"""Whole numbers: prime factors of bounded cost, and functions with exact values for rational arguments."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import gcd, lcm, prod
from typing import Any, Final

from flint import fmpz

MAX_COUNT: Final = 5000
MAX_FACTORED_BITS: Final = 64


class TooLarge(Exception):
    """The result would have too many terms or digits."""


class Undefined(Exception):
    """Division by zero, or a function without a value for these arguments."""


def prime_factors(value: Any) -> list[tuple[int, int]]:
    """Return the prime factors of a positive integer. Raises `TooLarge` if it cannot be factored at small cost."""
    value = fmpz(value)
    if value == 1:
        return []
    factors, rest = [], value
    for prime in (2, 3, 5, 7, 11, 13):
        count = 0
        while rest % prime == 0 and count < MAX_COUNT:
            rest, count = rest // prime, count + 1
        if count:
            factors.append((prime, count))
    if rest == 1:
        return factors
    if int(rest).bit_length() > MAX_FACTORED_BITS:
        raise TooLarge
    return factors + [(int(prime), int(count)) for prime, count in rest.factor()]


def exact_function(name: str, values: list[Any]) -> Fraction | int | None:
    """Return the value of a function for rational arguments, if it is rational."""
    exact = [Fraction(int(value.p), int(value.q)) for value in values]
    first = exact[0]
    if name in ("floor", "ceil"):
        return (
            first.numerator // first.denominator
            if name == "floor"
            else -(-first.numerator // first.denominator)
        )
    if name == "abs":
        return abs(first)
    if name == "sgn":
        return (first > 0) - (first < 0)
    if name in ("max", "min"):
        return max(exact) if name == "max" else min(exact)
    if name in ("Re", "Im"):
        return first if name == "Re" else 0
    return _counting(name, exact)


def _counting(name: str, exact: list[Fraction]) -> int | None:
    """Return the value of a function of whole numbers; None for any other function, and for n! where n is no whole number."""
    if name not in _COUNTING:
        return None
    if any(value.denominator != 1 for value in exact):
        if name == "fact":
            return None
        raise Undefined
    return _COUNTING[name](*(value.numerator for value in exact))


def _remainder(value: int, modulus: int) -> int:
    if modulus == 0:
        raise Undefined
    return value % modulus


def _falling(n: int, count: int, step: int = 1) -> int:
    """Return n (n - step) (n - 2 step) ..., of `count` factors."""
    if n < 0 or count < 0:
        raise Undefined
    if n > MAX_COUNT:
        raise TooLarge
    return prod(n - step * place for place in range(count))


_COUNTING: Final[dict[str, Callable[..., int]]] = {
    "gcd": gcd, "lcm": lcm, "mod": _remainder, "fact": lambda n: _falling(n, n), "fact2": lambda n: _falling(n, (n + 1) // 2, 2),
    "permutations": lambda n, k: _falling(n, min(k, n + 1)),
}  # fmt: skip
