"""Arithmetic of bounded cost: exact for rational values, 60 significant digits for all others.

Every operation either returns quickly or raises `TooLarge` or `Undefined`, even for a tower of powers. Callers must hold
`LOCK`, because mpmath changes its working precision inside its functions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from math import comb, factorial, isqrt
from typing import Any, Final

from mpmath import MPContext

LOCK: Final = threading.Lock()
MP: Final[Any] = MPContext()
MP.dps = 60

Value = Any
"""A `Fraction`, or a complex number of the context `MP` (mpmath ships no types)."""

_EXACT_BITS: Final = 20_000
_MAX_LOG2: Final = 1_000_000
_MAX_COUNT: Final = 1000
_TOLERANCE: Final = MP.mpf(10) ** -40
_SMALLEST_SCALE: Final = MP.mpf(10) ** -8


class TooLarge(Exception):
    """The value has too many digits to be computed."""


class Undefined(Exception):
    """Division by zero, or a power or function without a generally accepted value for these arguments."""


def approximate(value: Value) -> Any:
    """Return the value as a complex number of mpmath."""
    return MP.mpc(MP.mpf(value.numerator) / value.denominator) if isinstance(value, Fraction) else value


def same_value(a: Value, b: Value) -> bool:
    """Return whether two values are equal: exactly for two rationals, otherwise to 40 significant digits."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    x, y = approximate(a), approximate(b)
    return bool(abs(x - y) <= _TOLERANCE * max(abs(x), abs(y), _SMALLEST_SCALE))


def add(a: Value, b: Value) -> Value:
    """Return the sum, exact for two rationals. Raises `TooLarge` if it has too many digits."""
    return _checked(a + b if _both_exact(a, b) else approximate(a) + approximate(b))


def multiply(a: Value, b: Value) -> Value:
    """Return the product, exact for two rationals. Raises `TooLarge` if it has too many digits."""
    return _checked(a * b if _both_exact(a, b) else approximate(a) * approximate(b))


def divide(a: Value, b: Value) -> Value:
    """Return the quotient, exact for two rationals. Raises `Undefined` for the divisor 0."""
    if b == 0:
        raise Undefined
    return _checked(a / b if _both_exact(a, b) else approximate(a) / approximate(b))


def power(base: Value, exponent: Value) -> Value:
    """Return the power, exact where possible.

    A negative base with a fractional exponent is `Undefined`, because conventions for the root differ.
    """
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            return _whole_power(base, exponent.numerator)
        if base < 0:
            raise Undefined
        if exponent.denominator <= 64:
            exact = _exact_root(base, exponent.denominator)
            if exact is not None:
                return _whole_power(exact, exponent.numerator)
    x, y = approximate(base), approximate(exponent)
    if x == 0:
        raise Undefined
    if abs(y) * (1 + abs(MP.log(x))) > _MAX_LOG2:
        raise TooLarge
    return MP.power(x, y)


def root(value: Value, degree: Value) -> Value:
    """Return the principal root, or for an odd degree and a negative number its real root."""
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 1 <= degree.numerator <= 64:
        raise Undefined
    n = degree.numerator
    if not isinstance(value, Fraction):
        return MP.root(value, n)
    if value < 0:
        return multiply(Fraction(-1), root(-value, degree)) if n % 2 else MP.root(approximate(value), n)
    exact = _exact_root(value, n)
    return MP.root(approximate(value), n) if exact is None else exact


def fact(value: Value) -> Value:
    """Return the factorial, exactly."""
    return Fraction(factorial(_count(value)))


def binomial(n: Value, k: Value) -> Value:
    """Return the binomial coefficient n over k, exactly."""
    return Fraction(comb(_count(n), _count(k)))


def apply(function: Callable[[Any], Any], value: Value) -> Value:
    """Apply a function of mpmath. Raises `TooLarge` for arguments above 10^6, whose exponential has too many digits."""
    x = approximate(value)
    if abs(x) > _MAX_LOG2:
        raise TooLarge
    try:
        result = MP.mpc(function(x))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise Undefined from error
    if not MP.isfinite(result):
        raise Undefined
    return result


def _both_exact(a: Value, b: Value) -> bool:
    return isinstance(a, Fraction) and isinstance(b, Fraction)


def _checked(value: Value) -> Value:
    if isinstance(value, Fraction) and _bits(value) > 5 * _EXACT_BITS:
        raise TooLarge
    return value


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _whole_power(base: Fraction, exponent: int) -> Value:
    if exponent == 0 or base == 1:
        return Fraction(1)
    if base == 0:
        if exponent < 0:
            raise Undefined
        return base
    if base == -1:
        return Fraction(1 if exponent % 2 == 0 else -1)
    size = _bits(base) * abs(exponent)
    if size > _MAX_LOG2:
        raise TooLarge
    return base**exponent if size <= _EXACT_BITS else MP.power(approximate(base), exponent)


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """Return the rational root of a non-negative rational, or None if the root is irrational."""
    top, bottom = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(number: int, degree: int) -> int | None:
    if degree == 2:
        found = isqrt(number)
    else:
        found = 1 << -(
            -number.bit_length() // degree
        )  # an upper bound, from which Newton's method descends to the floor of the root
        while found > 1:
            lower = ((degree - 1) * found + number // found ** (degree - 1)) // degree
            if lower >= found:
                break
            found = lower
        found = 0 if number == 0 else found
    return found if found**degree == number else None


def _count(value: Value) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Undefined
    if value > _MAX_COUNT:
        raise TooLarge
    return value.numerator
