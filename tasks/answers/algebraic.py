"""Exact equality of algebraic numbers in Calcium's field, as far as its cost is known to be small.

No signal interrupts flint: sizes are limited before it is called.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any, Final

from flint import fmpq, fmpz

from tasks.answers.balls import LOCK, Evaluator, Unclear
from tasks.answers.integers import Undefined
from tasks.answers.tree import Node, children, walk

MAX_NODES: Final = 80
MAX_DEGREE: Final = 36
MAX_DIGITS: Final = 400
MAX_EXPONENT: Final = 300
_MAX_ORDER: Final = 120


class NotAlgebraic(Exception):
    """The expression is not known to be algebraic, or too large."""


@cache
def _field() -> Any:
    from flint.types._gr import gr_complex_ca_ctx

    return gr_complex_ca_ctx.new()


def same_number(a: Node, b: Node) -> bool | None:
    """Return whether two constants are equal; None if they are not algebraic, too large, or Calcium cannot decide."""
    if degree_bound(a) * degree_bound(b) > MAX_DEGREE**2 or _size(a) + _size(b) > MAX_DIGITS:
        return None
    try:
        verdict = (_exact(a) - _exact(b)) == _field()(0)
    except (
        NotAlgebraic,
        ArithmeticError,
        ValueError,
        AssertionError,
    ):  # flint asserts that a division succeeds
        return None
    return verdict if isinstance(verdict, bool) else None


def degree_bound(node: Node) -> int:
    """Return the product of the degrees of the different roots in an expression; a large number if it has too many nodes."""
    roots: set[Node] = set()
    degree = 1
    for count, found in enumerate(walk(node)):
        if count > MAX_NODES:
            return 10**9
        if found in roots:
            continue
        order = _order(found)
        if order > 1:
            roots.add(found)
            degree *= order
    return degree


def _order(node: Node) -> int:
    """Return the degree that a node adds."""
    if node.op == "root" and node.args[1].op == "num":
        return abs(node.args[1].args[0].numerator)
    if node.op == "pow":
        power = _rational(node.args[1])
        return 1 if power is None else power.denominator
    if node.op == "fn" and node.args[0] in _CIRCULAR:
        turns = _turns(node.args[1])
        return 1 if turns is None else max(1, turns.denominator // 2)
    return 1


def _size(node: Node) -> int:
    return sum(
        len(str(found.args[0].numerator)) for found in walk(node) if found.op == "num" and _short(found)
    )


def _short(node: Node) -> bool:
    if node.args[0].numerator.bit_length() + node.args[0].denominator.bit_length() > 4 * MAX_DIGITS:
        raise NotAlgebraic
    return True


def _exact(node: Node) -> Any:
    operation, arguments = node
    field = _field()
    if operation == "num":
        return field(fmpq(fmpz(arguments[0].numerator), fmpz(arguments[0].denominator)))
    if operation == "const" and arguments[0] == "i":
        return field(-1).sqrt()
    if operation == "pow":
        return _power(*arguments)
    if operation == "root":
        degree = _rational(arguments[1])
        if degree is None or degree.denominator != 1 or not 1 <= degree <= MAX_DEGREE:
            raise NotAlgebraic
        return _root(arguments[0], degree.numerator)
    if operation == "fn" and arguments[0] in _CIRCULAR:
        return _circular(arguments[0], arguments[1])
    if operation not in ("add", "mul", "div"):
        raise NotAlgebraic
    first, second = (_exact(one) for one in arguments)
    if operation == "div":
        return first / second
    return first + second if operation == "add" else first * second


def _power(base: Node, exponent: Node) -> Any:
    power = _rational(exponent)
    if base == Node("const", ("e",)):
        turns = _imaginary_turns(exponent)
        return _unity(turns)
    if power is None or abs(power.numerator) > MAX_EXPONENT or power.denominator > MAX_DEGREE:
        raise NotAlgebraic
    if power.denominator == 1:
        return _exact(base) ** power.numerator
    if _sign(base) is not True:
        raise NotAlgebraic  # conventions for roots of negative numbers differ
    return _exact(base) ** _field()(fmpq(power.numerator, power.denominator))


def _root(base: Node, degree: int) -> Any:
    positive = _sign(base)
    if positive is None and degree % 2:
        raise NotAlgebraic
    value = _exact(base)
    if degree == 2:
        return value.sqrt()
    power = _field()(fmpq(1, degree))
    return value**power if positive or degree % 2 == 0 else -((-value) ** power)


def _sign(node: Node) -> bool | None:
    """Return whether a constant is positive; None if that is not clear."""
    try:
        with LOCK:
            found = Evaluator({}, 160, real=False).value(node)
            return None if hasattr(found, "csgn") else True if found >= 0 else False if found < 0 else None
    except (Unclear, Undefined):
        return None


_CIRCULAR: Final = ("sin", "cos", "tan", "cot", "sec", "csc", "cis")


def _circular(name: str, argument: Node) -> Any:
    turns = _turns(argument)
    if turns is None:
        raise NotAlgebraic
    field = _field()
    z = _unity(turns)
    cosine, sine = (z + field(1) / z) / field(2), (z - field(1) / z) / (field(2) * field(-1).sqrt())
    pairs = {"sin": (sine, None), "cos": (cosine, None), "tan": (sine, cosine), "cot": (cosine, sine)}
    pairs |= {"sec": (field(1), cosine), "csc": (field(1), sine), "cis": (z, None)}
    top, bottom = pairs[name]
    return top if bottom is None else top / bottom


def _unity(turns: Fraction | None) -> Any:
    """Return exp(pi i q)."""
    if turns is None or turns.denominator > _MAX_ORDER:
        raise NotAlgebraic
    turns -= 2 * (turns.numerator // (2 * turns.denominator))
    whole, rest = divmod(turns, 1)
    found = _field()(-1) ** _field()(fmpq(rest.numerator, rest.denominator)) if rest else _field()(1)
    return -found if whole % 2 else found


def _turns(node: Node) -> Fraction | None:
    """Return q if the node is q * pi."""
    found = _product(node)
    if found is None:
        return None
    factor, constants = found
    return factor if constants == {"pi": 1} or not factor else None


def _imaginary_turns(node: Node) -> Fraction | None:
    """Return q if the node is q * pi * i."""
    found = _product(node)
    if found is None or found[1] != {"pi": 1, "i": 1}:
        return None
    return found[0]


def _product(node: Node) -> tuple[Fraction, dict[str, int]] | None:
    """Return the rational factor and the constants of a product; of a sum, if its terms have the same constants."""
    if node.op == "num":
        return node.args[0], {}
    if node.op == "const":
        return Fraction(1), {node.args[0]: 1}
    if node.op == "deg":
        found = _product(node.args[0])
        return None if found is None or found[1] else (found[0] / 180, {"pi": 1})
    if node.op not in ("mul", "div", "add"):
        return None
    first, second = (_product(one) for one in children(node))
    if first is None or second is None:
        return None
    if node.op == "add":
        return (first[0] + second[0], first[1]) if first[1] == second[1] else None
    sign = 1 if node.op == "mul" else -1
    names = {name: first[1].get(name, 0) + sign * second[1].get(name, 0) for name in first[1] | second[1]}
    if sign < 0 and not second[0]:
        return None
    factor = first[0] * second[0] if sign > 0 else first[0] / second[0]
    return factor, {name: count for name, count in names.items() if count}


def _rational(node: Node) -> Fraction | None:
    found = _product(node)
    return found[0] if found is not None and not found[1] else None
