r"""Numbers and algebraic expressions in LaTeX or plain notation, compared by their values.

Two expressions are equal if they have equal values at a few fixed, irregular rational points (polynomial identity
testing); numbers are the case without variables. Rational values are exact, others have 60 digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, reduce
from typing import Final
from zlib import crc32

from tasks.answers.arithmetic import (
    LOCK,
    MP,
    TooLarge,
    Undefined,
    Value,
    add,
    apply,
    binomial,
    divide,
    fact,
    multiply,
    power,
    root,
    same_value,
)

Point = Mapping[str, Fraction]
Node = Callable[[Point], Value]

_MAX_DEPTH: Final = 50
_FUNCTIONS: Final[dict[str, Callable[..., Value]]] = {
    "\\sin": MP.sin, "\\cos": MP.cos, "\\tan": MP.tan, "\\cot": MP.cot, "\\sec": MP.sec, "\\csc": MP.csc,
    "\\arcsin": MP.asin, "\\arccos": MP.acos, "\\arctan": MP.atan, "\\ln": MP.log, "\\exp": MP.exp,
    "\\sinh": MP.sinh, "\\cosh": MP.cosh, "\\tanh": MP.tanh,
}  # fmt: skip
_GREEK: Final = frozenset(
    "\\" + name
    for name in (
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
        "phi varphi chi psi omega Gamma Delta Theta Lambda Omega ell"
    ).split()
)
_CONSTANTS: Final[dict[str, Node]] = {
    "\\pi": lambda _: MP.mpc(MP.pi),
    "e": lambda _: MP.mpc(MP.e),
    "i": lambda _: MP.mpc(0, 1),
}
_PLAIN_NAMES: Final = r"(?:sqrt|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|pi)"
_TOKEN: Final = re.compile(
    r" *(?:(?P<mixed>(?P<whole>\d+)(?: (?P<top>\d+)/(?P<bottom>\d+)|\\frac\{(?P<top2>\d+)\}\{(?P<bottom2>\d+)\})(?!\d))"
    r"|(?P<repeating>\d+\.(?P<lead>\d*)\\overline\{(?P<cycle>\d+)\})"
    r"|(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<command>\\[A-Za-z]+)"
    rf"|(?P<plain>{_PLAIN_NAMES}(?![A-Za-z]))"
    r"|(?P<name>[A-Za-z](?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z]+\}))?'*)"
    r"|(?P<symbol>[-+*/^()\[\]{}!_%]))"
)
_WORD: Final = re.compile(r"(?<![A-Za-z\\])(?!(?:[a-c]{3}|[w-z]{3,4})(?![A-Za-z]))[A-Za-z]{3,}")
_SHORT_WORD: Final = re.compile(r"(?<![A-Za-z\\])(?:no|or|if|is|to|of|No|NO|OK|ok)(?![A-Za-z])")
_PLAIN: Final = re.compile(rf"(?<![A-Za-z\\]){_PLAIN_NAMES}(?![A-Za-z])")


class NotAnExpression(Exception):
    """The text is outside the grammar of this module."""


class TooDeep(NotAnExpression):
    """The text may be inside the grammar, but it is nested more than 50 levels deep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A parsed text, which can be evaluated at a point (a value for each of its variables)."""

    value_at: Node
    variables: frozenset[str]


def has_words(text: str) -> bool:
    """Return whether a normalised text contains English words other than commands and function names."""
    rest = _PLAIN.sub(" ", text)
    return bool(_WORD.search(rest) or _SHORT_WORD.search(rest))


def parse_expression(text: str) -> Expression:
    """Parse a normalised text.

    Raises `NotAnExpression` if it contains anything but numbers, letters, operators and known functions.
    """
    if has_words(text):
        raise NotAnExpression
    parser = _Parser(_tokens(text))
    try:
        node = parser.addition()
    except RecursionError as error:
        raise TooDeep from error
    if parser.tokens:
        raise NotAnExpression
    return Expression(value_at=node, variables=frozenset(parser.variables))


@lru_cache(maxsize=16384)
def number_value(expression: Expression) -> Value | None:
    """Return the value of an expression; None if it has variables, is undefined or too large.

    Cached, because the same expression is often compared with many others.
    """
    if expression.variables:
        return None
    try:
        with LOCK:
            return expression.value_at({})
    except (Undefined, TooLarge, RecursionError):
        return None


def identical(a: Expression, b: Expression) -> bool | None:
    """Return whether both are equal everywhere; None if that is ambiguous (branches of roots, division by zero).

    Values that are too large to compute count as different: such answers are equal only if they are written alike.
    """
    first, second = number_value(a), number_value(b)
    if first is not None and second is not None:
        with LOCK:
            return same_value(first, second)
    return _agree(a, b, lambda x, y, point: same_value(x(point), y(point)))


def proportional(a: Expression, b: Expression) -> bool | None:
    """Return whether one is a non-zero constant times the other, so that `a = 0` and `b = 0` are the same equation."""
    if not a.variables or a.variables != b.variables:
        return False if a.variables or b.variables else None
    origin = _point(a.variables, 9)

    def cross(x: Node, y: Node, point: Point) -> bool:
        left, right = x(origin), y(origin)
        if left == 0 or right == 0:
            raise Undefined
        return same_value(multiply(x(point), right), multiply(y(point), left))

    return _agree(a, b, cross)


def _agree(a: Expression, b: Expression, test: Callable[[Node, Node, Point], bool]) -> bool | None:
    names = a.variables | b.variables
    try:
        with LOCK:
            if not all(
                test(a.value_at, b.value_at, _point(names, index)) for index in ((1, 2) if names else (1,))
            ):
                return False
            return True if not names or test(a.value_at, b.value_at, _point(names, -3)) else None
    except (TooLarge, RecursionError):
        return False
    except Undefined:
        return None


def _point(names: frozenset[str], index: int) -> Point:
    """Return a fixed rational for each name: positive for a positive index, negative for a negative one."""
    sign = 1 if index > 0 else -1
    return {name: sign * Fraction(20011 + crc32(f"{name}/{index}".encode()) % 19997, 9973) for name in names}


# --- reading -----------------------------------------------------------------------------------------------------

_Token = tuple[str, str | Fraction]


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotAnExpression
        token, position = _token(match, after_power=bool(tokens) and tokens[-1] == ("symbol", "^"))
        tokens.append(token)
    return tokens


def _token(match: re.Match[str], *, after_power: bool) -> tuple[_Token, int]:
    kind = match.lastgroup if match["mixed"] is None else "mixed"
    if kind == "mixed":
        top, bottom = int(match["top"] or match["top2"]), int(match["bottom"] or match["bottom2"])
        if after_power or not 0 < top < bottom:  # 2\frac{7}{3} is a product; so is 2^3\frac{1}{2}
            if match["top"]:
                raise NotAnExpression
            return ("number", Fraction(match["whole"])), match.end("whole")
        return ("number", int(match["whole"]) + Fraction(top, bottom)), match.end()
    if match["repeating"] is not None:
        return ("number", _repeating(match)), match.end()
    if match["number"] is not None:
        return ("number", Fraction(match["number"])), match.end()
    if match["plain"] is not None:
        return ("command", "\\" + match["plain"]), match.end()
    assert kind is not None
    return (kind, match[kind]), match.end()


def _repeating(match: re.Match[str]) -> Fraction:
    r"""0.1\overline{6} = 0.1 + 6/90."""
    lead, cycle = match["lead"], match["cycle"]
    head = match["repeating"].split("\\")[0].rstrip(".")
    return Fraction(head) + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(lead))


class _Parser:
    """Recursive-descent parser with bounded depth. Each method returns the node for the text that it consumed."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens = tokens[::-1]
        self.variables: set[str] = set()
        self.depth = 0

    def peek(self) -> str | Fraction | None:
        return self.tokens[-1][1] if self.tokens else None

    def take(self, expected: str) -> bool:
        found = self.peek() == expected
        if found:
            self.tokens.pop()
        return found

    def need(self, expected: str) -> None:
        if not self.take(expected):
            raise NotAnExpression

    def addition(self) -> Node:
        node = self.product()
        while self.peek() in ("+", "-"):
            if self.take("+"):
                node = _binary(add, node, self.product())
            else:
                self.need("-")
                node = _binary(add, node, _negated(self.product()))
        return node

    def product(self) -> Node:
        node = self.signed()
        while True:
            if self.take("*") or self.take("\\cdot"):
                node = _binary(multiply, node, self.signed())
            elif self.take("/"):
                node = _binary(divide, node, self.signed())
            elif self.starts_factor():
                node = _binary(multiply, node, self.raised())
            else:
                return node

    def signed(self) -> Node:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.tokens.pop()[1] == "-"
        node = self.raised()
        return _negated(node) if negative else node

    def starts_factor(self) -> bool:
        """Return whether a factor follows without an operator. Numbers are excluded: `x 2` and `1 2` are ambiguous."""
        if not self.tokens:
            return False
        kind, text = self.tokens[-1]
        return kind in ("name", "command") or text in ("(", "{", "[")

    def raised(self) -> Node:
        node = self.atom()
        while True:
            if self.take("!"):
                node = _unary(fact, node)
            elif self.take("%"):
                node = _binary(divide, node, _constant(Fraction(100)))
            elif self.take("^"):
                return self.postfixed(_binary(power, node, self.exponent()))
            else:
                return node

    def postfixed(self, node: Node) -> Node:
        return _binary(divide, node, _constant(Fraction(100))) if self.take("%") else node

    def exponent(self) -> Node:
        if self.peek() == "{":
            return self.atom()
        negative = self.take("-")
        node = self.raised()
        return _negated(node) if negative else node

    def atom(self) -> Node:
        if self.depth >= _MAX_DEPTH:
            raise TooDeep
        if not self.tokens:
            raise NotAnExpression
        self.depth += 1
        kind, text = self.tokens.pop()
        if isinstance(text, Fraction):
            node = _constant(text)
        elif kind == "name":
            node = self.named(text)
        elif kind == "command":
            node = self.command(text)
        else:
            node = self.grouped(text)
        self.depth -= 1
        return node

    def named(self, text: str) -> Node:
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        self.variables.add(text)
        return lambda point: point[text]

    def grouped(self, opening: str) -> Node:
        closing = {"(": ")", "{": "}", "[": "]"}.get(opening)
        if closing is None:
            raise NotAnExpression
        node = self.addition()
        self.need(closing)
        return node

    def command(self, text: str) -> Node:
        if text == "\\frac":
            return _binary(divide, self.argument(), self.argument())
        if text == "\\binom":
            return _binary(binomial, self.argument(), self.argument())
        if text == "\\sqrt":
            degree = self.grouped("[") if self.take("[") else _constant(Fraction(2))
            return _binary(root, self.argument(), degree)
        if text == "\\log":
            self.need("_")  # the base must be given, because the default differs between authors
            base = _unary(_logarithm, self.argument())
            return _binary(divide, _unary(_logarithm, self.operand()), base)
        if text in _FUNCTIONS:
            return self.function(_FUNCTIONS[text])
        if text in _CONSTANTS or text in _GREEK:
            return self.named(text)
        raise NotAnExpression

    def function(self, function: Callable[..., Value]) -> Node:
        exponent = None
        if self.take("^"):
            if self.peek() in ("-", "{"):  # \sin^{-1} is not a power
                raise NotAnExpression
            exponent = self.atom()
        node = _unary(lambda value: apply(function, value), self.operand())
        return node if exponent is None else _binary(power, node, exponent)

    def operand(self) -> Node:
        r"""Parse a function's operand: a group, or, as in `\sin 2x`, the factors up to the next operator or function."""
        if self.peek() in ("(", "{"):
            return self.atom()
        nodes = [self.raised()]
        while (
            self.starts_factor()
            and self.peek() not in _FUNCTIONS
            and self.peek() not in ("(", "{", "[", "\\log", "\\cdot")
        ):
            nodes.append(self.raised())
        return reduce(lambda left, right: _binary(multiply, left, right), nodes)

    def argument(self) -> Node:
        """Parse a braced group or a single token.

        LaTeX takes only one digit of an unbraced number, so a longer number is ambiguous and raises `NotAnExpression`.
        """
        following = self.peek()
        if isinstance(following, Fraction) and not 0 <= following <= 9:
            raise NotAnExpression
        return self.atom()


def _logarithm(value: Value) -> Value:
    return apply(MP.log, value)


def _constant(value: Value) -> Node:
    return lambda _: value


def _negated(node: Node) -> Node:
    return lambda point: multiply(Fraction(-1), node(point))


def _unary(operation: Callable[[Value], Value], node: Node) -> Node:
    return lambda point: operation(node(point))


def _binary(operation: Callable[[Value, Value], Value], left: Node, right: Node) -> Node:
    return lambda point: operation(left(point), right(point))
