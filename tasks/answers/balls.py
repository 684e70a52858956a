"""Values of expressions as balls of arb: a midpoint and a rigorous bound of the error.

Two balls that are apart prove that two values differ. flint keeps its working precision in one global variable, so that
callers hold `LOCK`; every evaluation is short, because precision, exponents and the number of operations are bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

import flint
from flint import acb, arb, fmpq, fmpz

from tasks.answers.integers import MAX_COUNT, Undefined
from tasks.answers.tree import Node, substitute

LOCK: Final = threading.Lock()
PRECISIONS: Final = (64, 160, 500, 1400, 4000)
MAX_OPERATIONS: Final = 3000
_MAX_ARGUMENT_BITS: Final = 3000
_MAX_EXPONENT_BITS: Final = 600
_MAX_UNROLLED: Final = 400

Ball = Any
Point = Mapping[str, Any]


class Unclear(Exception):
    """The precision does not suffice to evaluate the expression, or the work would exceed the limits."""


class Evaluator:
    """Evaluates nodes at one point with one precision. `real`: roots and logarithms of negative numbers are undefined.

    `smallest` is the least magnitude, as a power of two, of all non-zero values on the way: two values that agree to fewer
    bits need not be equal.
    """

    def __init__(self, point: Point, precision: int, *, real: bool, base: str = "10") -> None:
        self.point, self.precision, self.real, self.base = point, precision, real, base
        self.operations = 0
        self.smallest = 0

    def value(self, node: Node) -> Ball:
        """Return the ball of a node. Raises `Undefined` and `Unclear`. The caller holds `LOCK`."""
        flint.ctx.prec = self.precision
        return self.ball(node)

    def ball(self, node: Node) -> Ball:
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
            raise Unclear
        found = self.computed(node.op, node.args)
        if not found.is_finite():
            raise Unclear
        size = _log2_lower(found)
        if size is not None and size < self.smallest:
            self.smallest = size
        return found

    def computed(self, operation: str, arguments: tuple[Any, ...]) -> Ball:
        if operation in ("num", "var", "const"):
            return self.leaf(operation, arguments[0])
        if operation == "fn":
            return self.function(arguments[0], arguments[1:])
        if operation in ("sum", "product"):
            return self.iterated(operation, *arguments)
        if operation == "pow":
            return self.power(*arguments)
        if operation == "call":
            raise Unclear
        return self.arithmetic(operation, [self.ball(one) for one in arguments])

    def leaf(self, operation: str, value: Any) -> Ball:
        if operation == "num":
            return arb(fmpq(value.numerator, value.denominator))
        if operation == "var":
            return arb(self.point[value])
        return acb(0, 1) if value == "i" else arb.pi() if value == "pi" else arb.const_e()

    def arithmetic(self, operation: str, values: list[Ball]) -> Ball:
        if operation == "deg":
            return values[0] * arb.pi() / 180
        first, second = values
        if operation == "root":
            return self.root(first, second)
        if operation == "div":
            return first / _divisor(second)
        return first + second if operation == "add" else first * second

    # --- powers ---

    def power(self, base: Node, exponent: Node) -> Ball:
        if base == Node("const", ("e",)):
            return self.exp(self.ball(exponent))
        x, y = self.ball(base), self.ball(exponent)
        whole = _integer(y)
        if whole is not None:
            return self.whole_power(x, whole)
        if isinstance(x, arb):
            if x > 0:
                return self.exp(y * x.log())
            if x.is_zero() and isinstance(y, arb) and y > 0:
                return arb(0)
            if x < 0:
                raise Undefined
        elif not self.real:
            return self.exp(y * _divisor(x).log())
        raise Unclear

    def whole_power(self, x: Ball, exponent: int) -> Ball:
        if exponent < 0:
            return self.whole_power(1 / _divisor(x), -exponent)
        if exponent.bit_length() > _MAX_EXPONENT_BITS:
            raise Unclear
        if exponent.bit_length() <= 40 or (isinstance(x, arb) and x.is_zero()):
            return x ** fmpz(exponent)
        if isinstance(x, arb) and x > 0:
            flint.ctx.prec = self.precision + exponent.bit_length()
            found = (x.log() * fmpz(exponent)).exp()
            flint.ctx.prec = self.precision
            return found
        raise Unclear

    def exp(self, x: Ball) -> Ball:
        self.bounded(x)
        return x.exp()

    def root(self, x: Ball, degree: Ball) -> Ball:
        n = _integer(degree)
        if n is None or not 1 <= n <= 1000:
            raise Undefined
        if isinstance(x, arb):
            if x >= 0:
                return x.root(n)
            if x < 0:
                if n % 2:
                    return -((-x).root(n))
                if self.real:
                    raise Undefined
                return acb(x).root(n)
            raise Unclear
        if x.contains(0):
            raise Unclear
        return x.root(n) if x.imag.is_zero() or not x.imag.contains(0) or x.real > 0 else _unclear()

    # --- functions ---

    def function(self, name: str, arguments: tuple[Node, ...]) -> Ball:
        values = [self.ball(one) for one in arguments]
        if name in _ENTIRE:
            self.bounded(values[0])
            return _ENTIRE[name](values[0])
        if name in ("ln", "log"):
            return self.logarithm(name, values)
        if name in _PARTIAL:
            return self.partial(name, values[0])
        if name in ("fact", "binom", "permutations", "fact2"):
            return self.counting(name, values)
        if name == "abs":
            return abs(values[0])
        if not all(isinstance(value, arb) for value in values):
            return self.parts(name, values[0])
        return _real_function(name, values)

    def parts(self, name: str, value: Ball) -> Ball:
        if name not in ("Re", "Im"):
            raise Undefined
        return acb(value).real if name == "Re" else acb(value).imag

    def logarithm(self, name: str, values: list[Ball]) -> Ball:
        if len(values) == 2:
            return self.log(values[0]) / _divisor(self.log(values[1]))
        found = self.log(values[0])
        return found / arb(10).log() if name == "log" and self.base == "10" else found

    def log(self, x: Ball) -> Ball:
        if isinstance(x, arb):
            if x > 0:
                return x.log()
            if x.is_zero() or (self.real and x < 0):
                raise Undefined
            if x < 0:
                return acb(x).log()
            raise Unclear
        if x.contains(0) or (x.imag.contains(0) and not x.real > 0):
            raise Unclear
        return x.log()

    def partial(self, name: str, x: Ball) -> Ball:
        if name == "arccot":
            return arb.pi() / 2 - x.atan()
        if name in ("arcsin", "arccos") and isinstance(x, arb):
            if x > 1 or x < -1:
                raise Undefined
            if not (x <= 1 and x >= -1):
                raise Unclear
        self.bounded(x)
        return _PARTIAL[name](x)

    def counting(self, name: str, values: list[Ball]) -> Ball:
        for value in values:
            if not isinstance(value, arb) or value < 0:
                raise Undefined
            if not value < 10**12:
                raise Unclear
        if name == "fact":
            return (values[0] + 1).gamma()
        n = _integer(values[0])
        if name == "fact2":
            if n is None or n > MAX_COUNT:
                raise Unclear
            result = fmpz(1)
            for step in range(n, 0, -2):
                result *= step
            return arb(result)
        below = (values[0] - values[1] + 1).rgamma()
        found = (values[0] + 1).gamma() * below
        return found if name == "permutations" else found * (values[1] + 1).rgamma()

    def iterated(self, operation: str, index: str, low: Node, high: Node, body: Node) -> Ball:
        start, stop = _integer(self.ball(low)), _integer(self.ball(high))
        if start is None or stop is None:
            raise Undefined
        if stop - start > _MAX_UNROLLED:
            raise Unclear
        total = arb(0 if operation == "sum" else 1)
        for step in range(start, stop + 1):
            term = self.ball(substitute(body, index, Node("num", (Fraction(step),))))
            total = total + term if operation == "sum" else total * term
        return total

    def bounded(self, x: Ball) -> None:
        """Refuse arguments of exp and of trigonometric functions that are too large to be reduced quickly."""
        size = _log2_upper(x)
        if size is not None and size > _MAX_ARGUMENT_BITS:
            raise Unclear


def _cis(x: Ball) -> Ball:
    return (acb(0, 1) * x).exp()


_ENTIRE: Final[dict[str, Any]] = {
    "sin": lambda x: x.sin(), "cos": lambda x: x.cos(), "exp": lambda x: x.exp(), "cis": _cis,
    "sinh": lambda x: x.sinh(), "cosh": lambda x: x.cosh(), "tanh": lambda x: x.tanh(),
}  # fmt: skip
_PARTIAL: Final[dict[str, Any]] = {
    "tan": lambda x: x.sin() / _divisor(x.cos()), "cot": lambda x: x.cos() / _divisor(x.sin()),
    "sec": lambda x: 1 / _divisor(x.cos()), "csc": lambda x: 1 / _divisor(x.sin()), "arcsin": lambda x: x.asin(),
    "arccos": lambda x: x.acos(), "arctan": lambda x: x.atan(), "arccot": lambda x: x,
}  # fmt: skip


def _real_function(name: str, values: list[Ball]) -> Ball:
    if name in ("max", "min"):
        found = values[0]
        for value in values[1:]:
            found = found.max(value) if name == "max" else found.min(value)
        return found
    if name in ("Re", "Im"):
        return values[0] if name == "Re" else arb(0)
    if name == "sgn":
        return (
            arb(1)
            if values[0] > 0
            else arb(-1)
            if values[0] < 0
            else arb(0)
            if values[0].is_zero()
            else _unclear()
        )
    if name in ("floor", "ceil"):
        whole = (values[0].floor() if name == "floor" else values[0].ceil()).unique_fmpz()
        return _unclear() if whole is None else arb(whole)
    whole_values = [_integer(value) for value in values]
    numbers = [fmpz(value) for value in whole_values if value is not None]
    if len(numbers) < len(whole_values):
        raise Undefined
    if name == "mod":
        return arb(numbers[0] % numbers[1]) if numbers[1] != 0 else _undefined()
    found = numbers[0]
    for value in numbers[1:]:
        found = found.gcd(value) if name == "gcd" else found.lcm(value)
    return arb(found)


def _unclear() -> Ball:
    raise Unclear


def _undefined() -> Ball:
    raise Undefined


def _divisor(x: Ball) -> Ball:
    if x.is_zero():
        raise Undefined
    if x.contains(0):
        raise Unclear
    return x


def _integer(x: Ball) -> int | None:
    """Return the value of a ball that is exactly an integer."""
    if isinstance(x, acb):
        if not x.imag.is_zero():
            return None
        x = x.real
    if not x.is_exact():
        return None
    found = x.unique_fmpz()
    return None if found is None else int(found)


def _log2_upper(x: Ball) -> int | None:
    """Return an upper bound of log2 |x|; None for zero."""
    return _log2(x.abs_upper())


def _log2_lower(x: Ball) -> int | None:
    """Return a lower bound of log2 |x|; None if x may be zero."""
    return _log2(x.abs_lower())


def _log2(bound: Ball) -> int | None:
    mantissa, exponent = bound.mid().man_exp()
    return None if mantissa == 0 else int(exponent) + int(abs(mantissa)).bit_length()
