r"""Expressions in LaTeX or plain notation: tokens and a recursive-descent parser with bounded depth and size."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from typing import Final, NamedTuple

from tasks.answers.tree import MAX_DEPTH, MAX_NODES, Expression, Node, number

FUNCTIONS: Final = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln exp cis gcd lcm max min sgn log lg Re Im".split()
)
INVERSES: Final = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"}
_SYNONYMS: Final = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "ctg": "cot", "tg": "tan", "cosec": "csc", "GCD": "gcd",
    "LCM": "lcm", "Ln": "ln", "Log": "log", "arctg": "arctan",
}  # fmt: skip
_GREEK: Final = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|varrho|sigma|tau|phi|chi|psi|omega|Gamma|Delta|"
    "Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|ell|hbar"
)
_ACCENTS: Final = "vec|hat|widehat|bar|tilde|dot|ddot|overline"
_CALLED: Final = frozenset("fghFGHPQWIATSVN")
_CIRCUMFIX: Final = {"lfloor": "rfloor", "lceil": "rceil"}
_PLAIN: Final = "|".join(
    sorted(FUNCTIONS | set(_SYNONYMS) | {"sqrt", "cbrt", "pi", "binom", "choose"}, key=len, reverse=True)
)
_TOKEN: Final = re.compile(
    r"(?P<space> *)(?:"
    r"(?P<repeating>\d+\.\d*(?:\\overline\{\d+\}|\(\d+\)(?![\d(])))"
    r"|(?P<scientific>\d+(?:\.\d+)?[eE][+-]?\d+(?![.\d]))"
    r"|(?P<number>(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?)"
    rf"|(?P<accented>\\(?:{_ACCENTS}) ?(?:\{{ ?[A-Za-z]{{1,4}} ?\}}|[A-Za-z]))"
    rf"|(?P<greek>\\(?:{_GREEK})(?![A-Za-z]))"
    r"|\\(?P<command>[A-Za-z]+)"
    rf"|(?P<plain>(?:{_PLAIN})(?![A-Za-z]))"
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<symbol>[-+*/^()\[\]{}!_%|,=:']))"
)
_PRODUCT: Final = re.compile(
    r"[a-d]{3,4}|[w-z]{3,4}|[p-s]{3,4}|[k-n]{3,4}|[A-H]{2,8}|[xyz][a-c]{2}|[a-c]{2}[xyz]"
)
_SHORT_WORDS: Final = frozenset("no or if is to of No NO OK ok am pm AM PM in cm km mm kg ft".split())
_PHYSICS: Final = re.compile(
    r"(?!kmh|mph|kph|rpm|lbs|yrs|hrs|pts|kgs|cms|ppm|pct|gcd|lcm)[b-df-hj-np-tv-z]{3}"
)
_SUBSCRIPT: Final = re.compile(r"_(?:\{ *((?:\\[A-Za-z]+|[A-Za-z0-9, ])+?) *\}|(\\[A-Za-z]+|[A-Za-z0-9]))")


class NotAnExpression(Exception):
    """The text is outside the grammar of expressions, or larger than its limits."""


class Token(NamedTuple):
    """A token; the value of a number is a `Fraction`. `space`: white space stands before it."""

    kind: str
    value: str | Fraction
    space: bool


def parse_expression(text: str) -> Expression:
    """Parse a normalised text. Raises `NotAnExpression`."""
    plain = re.fullmatch(r"-?\d{1,60}(?:\.(\d{1,60}))?", text)
    if plain:
        return Expression(number(Fraction(text)), places=len(plain[1] or ""))
    parser = _Parser(tokens(text))
    try:
        node = parser.divided(parser.addition())
    except RecursionError as error:
        raise NotAnExpression from error
    if parser.tokens:
        raise NotAnExpression
    return Expression(node)


def is_product(letters: str) -> bool:
    """Return whether a run of letters is a product of variables, and no word."""
    if len(letters) == 2:
        return letters not in _SHORT_WORDS
    return _PRODUCT.fullmatch(letters) is not None or _PHYSICS.fullmatch(letters) is not None


# --- tokens ------------------------------------------------------------------------------------------------------


def tokens(text: str) -> list[Token]:
    """Return the tokens of a normalised text. Raises `NotAnExpression` for words and for unknown characters."""
    found: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(found) > MAX_NODES:
            raise NotAnExpression
        position = match.end()
        space = bool(match["space"])
        kind = match.lastgroup or ""
        if kind in ("repeating", "scientific", "number"):
            found.append(Token("number", _number(kind, match[kind]), space))
        elif kind == "plain":
            found.append(Token("command", _SYNONYMS.get(match[kind], match[kind]), space))
        elif kind in ("greek", "accented"):
            found.append(Token("name", _accented(match[kind]), space))
            position = _subscripted(text, position, found)
        elif kind == "command":
            found.append(Token("command", match[kind], space))
        elif kind == "letters":
            position = _letters(match, text, found)
        else:
            found.append(Token("symbol", match["symbol"], space))
    return found


def _accented(text: str) -> str:
    r"""Return `\vec{x}` and `\vec x` as one name."""
    name = re.sub(r"[{} ]+", " ", text).strip()
    return re.sub(r"^\\hat (?=[ijk]$)", r"\\vec ", name)


def _letters(match: re.Match[str], text: str, found: list[Token]) -> int:
    """Add the names in a run of letters, the last one with its subscript, and return the position after them."""
    letters = match["letters"]
    if len(letters) > 1 and not is_product(letters):
        raise NotAnExpression
    for place, letter in enumerate(letters):
        found.append(Token("name", letter, bool(match["space"]) and place == 0))
    return _subscripted(text, match.end(), found)


def _subscripted(text: str, position: int, found: list[Token]) -> int:
    """Add a subscript and primes to the last token."""
    last = found.pop()
    name = str(last.value)
    subscript = _SUBSCRIPT.match(text, position)
    if subscript:
        inner = re.sub(r"[ ,]+", ",", subscript[1] or subscript[2])
        name, position = f"{name}_{inner}", subscript.end()
    while position < len(text) and text[position] == "'":
        name, position = name + "'", position + 1
    found.append(Token("name", name, last.space))
    return position


def _number(kind: str, text: str) -> Fraction:
    if len(text) > 4000:
        raise NotAnExpression
    if kind == "number":
        return Fraction(text.replace(",", ""))
    if kind == "scientific":
        mantissa, exponent = re.split("[eE]", text)
        if len(exponent) > 5:
            raise NotAnExpression
        return Fraction(mantissa) * Fraction(10) ** int(exponent)
    head, cycle = re.split(r"\\overline\{|\(", text.rstrip(")}"))
    places = len(head.partition(".")[2])
    return Fraction(head.rstrip(".")) + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10**places)


# --- grammar -----------------------------------------------------------------------------------------------------


class _Parser:
    """Recursive descent. Each method returns the node for the text that it consumed."""

    def __init__(self, found: list[Token]) -> None:
        self.tokens = found[::-1]
        self.depth = 0
        self.bound: list[str] = []
        self.number_may_follow = False  # after `3!` and `(n-2)`

    def peek(self, place: int = 1) -> str | Fraction | None:
        return self.tokens[-place].value if len(self.tokens) >= place else None

    def kind(self) -> str:
        return self.tokens[-1].kind if self.tokens else ""

    def take(self, expected: str) -> bool:
        found = self.peek() == expected
        if found:
            self.tokens.pop()
        return found

    def need(self, expected: str) -> None:
        if not self.take(expected):
            raise NotAnExpression

    def addition(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAnExpression
        node = self.product()
        while self.peek() in ("+", "-"):
            sign = self.tokens.pop().value
            other = self.product()
            node = Node("add", (node, other if sign == "+" else negated(other)))
        self.depth -= 1
        return node

    def product(self) -> Node:
        node = self.signed()
        while True:
            if self.take("*") or self.take("cdot"):
                node = Node("mul", (node, self.signed()))
            elif self.take("/"):
                node = Node("div", (node, self.signed()))
            elif self.peek() in ("bmod", "mod"):
                self.tokens.pop()
                node = Node("fn", ("mod", node, self.signed()))
            elif self.starts_factor():
                node = Node("mul", (node, self.raised()))
            else:
                return node

    def signed(self) -> Node:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.tokens.pop().value == "-"
        node = self.raised()
        return negated(node) if negative else node

    def starts_factor(self) -> bool:
        """Return whether a factor follows without an operator. Numbers are excluded: `x 2` and `1 2` are ambiguous."""
        kind, text = self.kind(), self.peek()
        if kind == "number":
            return self.number_may_follow
        if kind == "command":
            return text not in ("cdot", "bmod", "mod", "rfloor", "rceil", "choose", "over", "circ", "to")
        return kind == "name" or text in ("(", "{", "[")

    def raised(self) -> Node:
        closes = self.peek() == "("
        node = self.atom()
        self.number_may_follow = closes
        while True:
            if self.take("!"):
                double = self.take("!")
                if self.peek() == "!":
                    raise NotAnExpression
                node = Node("fn", ("fact2" if double else "fact", node))
                self.number_may_follow = True
            elif self.take("%"):
                node = Node("div", (node, number(100)))
            elif self.peek() == "^":
                self.tokens.pop()
                node = self.power(node)
                self.number_may_follow = False
            else:
                return node

    def power(self, node: Node) -> Node:
        if self.take("circ"):
            return Node("deg", (node,))
        if self.peek() == "{" and self.peek(2) == "circ" and self.peek(3) == "}":
            del self.tokens[-3:]
            return Node("deg", (node,))
        return Node("pow", (node, self.exponent()))

    def exponent(self) -> Node:
        if self.peek() == "{":
            return self.atom()
        negative = self.take("-")
        power = self.plain_number()  # 2^3\frac{1}{2} is a product
        node = self.raised() if power is None else self.raised_to(power)
        if power is not None and self.take("^"):
            node = self.power(node)
        return negated(node) if negative else node

    def plain_number(self) -> Node | None:
        """Take a number that is not the whole part of a mixed number."""
        following = self.peek()
        if not isinstance(following, Fraction):
            return None
        self.tokens.pop()
        return number(following)

    def atom(self) -> Node:
        if not self.tokens:
            raise NotAnExpression
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAnExpression
        kind, text, _ = self.tokens.pop()
        if isinstance(text, Fraction):
            node = self.mixed(text)
        elif kind == "name":
            node = self.named(text)
        elif kind == "command":
            node = self.command(text)
        else:
            node = self.grouped(text)
        self.depth -= 1
        return node

    def mixed(self, whole: Fraction) -> Node:
        r"""Read `2\frac{1}{3}` and `2 1/3` as mixed numbers if the fraction is a proper one."""
        if whole.denominator == 1:
            following = [token.value for token in self.tokens[:-8:-1]]
            if following[:2] == ["frac", "{"] and following[3:5] == ["}", "{"] and following[6:7] == ["}"]:
                top, bottom, count = following[2], following[5], 7
            elif following[1:2] == ["/"] and isinstance(following[0], Fraction) and self.tokens[-1].space:
                top, bottom, count = following[0], following[2:3] and following[2], 3
            else:
                return number(whole)
            if isinstance(top, Fraction) and isinstance(bottom, Fraction) and 0 < top < bottom:
                del self.tokens[-count:]
                return number(whole + top / bottom)
            if count == 3:
                raise NotAnExpression
        return number(whole)

    def named(self, text: str) -> Node:
        if text in ("e", "i") and text not in self.bound:
            return Node("const", (text,))
        stem, _, subscript = text.partition("_")
        if subscript in self.bound:
            return Node("call", (stem, Node("var", (subscript,))))
        if self.peek() == "_" and self.peek(2) == "{":
            self.tokens.pop()
            return Node("call", (text, self.argument()))
        if self.peek() == "(" and not self.tokens[-1].space and self.is_call(text):
            self.tokens.pop()
            return called(text, self.arguments(")"))
        return Node("var", (text,))

    def is_call(self, name: str) -> bool:
        """Return whether a name before a parenthesis is a function: `f(...)`, or a letter with one number or letter."""
        inside = self.tokens[:-4:-1]
        single = len(inside) == 3 and inside[2].value == ")" and inside[1].kind in ("number", "name")
        pair = name in ("C", "P") and any(token.value == "," for token in self.tokens[:-6:-1])
        return name[0] in "fgh" or pair or (name[0] in _CALLED and single)

    def arguments(self, closing: str) -> list[Node]:
        nodes = [self.addition()]
        while self.take(","):
            nodes.append(self.addition())
        self.need(closing)
        return nodes

    def grouped(self, opening: str) -> Node:
        if opening == "|":
            return self.closed("|", lambda node: Node("fn", ("abs", node)))
        closing = {"(": ")", "{": "}", "[": "]"}.get(opening)
        if closing is None:
            raise NotAnExpression
        node = self.divided(self.addition())
        self.need(closing)
        return node

    def divided(self, node: Node) -> Node:
        r"""Read `\over` and `\choose` after a sum."""
        if self.take("over"):
            return Node("div", (node, self.addition()))
        return Node("fn", ("binom", node, self.addition())) if self.take("choose") else node

    def closed(self, closing: str, build: Callable[[Node], Node]) -> Node:
        node = self.addition()
        self.need(closing)
        return build(node)

    def command(self, text: str) -> Node:
        if text == "frac":
            top, bottom = self.argument(), self.argument()
            if top == Node("var", ("d",)) and bottom.op == "mul" and bottom.args[0] == top:
                raise NotAnExpression  # a derivative
            return Node("div", (top, bottom))
        if text == "binom":
            return Node("fn", ("binom", *self.pair()))
        if text in ("sqrt", "cbrt"):
            degree = (
                self.grouped("[") if text == "sqrt" and self.take("[") else number(2 if text == "sqrt" else 3)
            )
            return Node("root", (self.argument(), degree))
        if text in ("sum", "prod"):
            return self.iterated("sum" if text == "sum" else "product")
        if text in _CIRCUMFIX:
            return self.closed(_CIRCUMFIX[text], lambda node: Node("fn", (text[1:], node)))
        if text in FUNCTIONS:
            return self.function(text)
        if text == "pi":
            return Node("const", ("pi",))
        raise NotAnExpression

    def pair(self) -> tuple[Node, Node]:
        if self.take("("):
            nodes = self.arguments(")")
            if len(nodes) != 2:
                raise NotAnExpression
            return nodes[0], nodes[1]
        return self.argument(), self.argument()

    def iterated(self, operation: str) -> Node:
        self.need("_")
        self.need("{")
        if self.kind() != "name":
            raise NotAnExpression
        index = str(self.tokens.pop().value)
        self.need("=")
        low = self.addition()
        self.need("}")
        self.need("^")
        high = self.argument()
        self.bound.append(index)
        body = self.product()
        self.bound.pop()
        return Node(operation, (index, low, high, body))

    def function(self, name: str) -> Node:
        if name in ("gcd", "lcm", "max", "min"):
            closing = {"(": ")", "{": "}"}.get(str(self.peek()))
            if closing is None:
                raise NotAnExpression
            self.tokens.pop()
            return Node("fn", (name, *self.arguments(closing)))
        if name in ("log", "lg"):
            return self.logarithm(name)
        exponent = None
        if self.take("^"):
            exponent = self.exponent()
            if exponent == number(-1):
                if name not in INVERSES:
                    raise NotAnExpression
                name, exponent = INVERSES[name], None
        node = Node("fn", (name, self.operand()))
        return node if exponent is None else Node("pow", (node, exponent))

    def logarithm(self, name: str) -> Node:
        base = number(10) if name == "lg" else self.argument() if self.take("_") else None
        exponent = self.exponent() if self.take("^") else None
        operand = self.operand()
        node = Node("fn", ("log", operand) if base is None else ("log", operand, base))
        return node if exponent is None else Node("pow", (node, exponent))

    def operand(self) -> Node:
        r"""Parse a function's operand: a group, or, as in `\sin 2x`, the factors up to the next operator or function."""
        if self.peek() in ("(", "{", "|"):
            node = self.atom()
            return self.raised_to(node)
        nodes = [self.raised()]
        while self.starts_factor() and self.peek() not in FUNCTIONS and self.peek() not in ("(", "{", "["):
            nodes.append(self.raised())
        if (
            self.peek() == "/"
            and self.peek(2) != "("
            and self.tokens[-2:-1]
            and self.tokens[-2].kind == "number"
        ):
            self.tokens.pop()
            nodes = [Node("div", (reduce(_times, nodes), self.raised()))]
        return reduce(_times, nodes)

    def raised_to(self, node: Node) -> Node:
        return Node("fn", ("fact", node)) if self.take("!") else node

    def argument(self) -> Node:
        """Parse a braced group or a single token; LaTeX takes only one digit of an unbraced number."""
        following = self.peek()
        if isinstance(following, Fraction) and not 0 <= following <= 9:
            raise NotAnExpression
        return self.plain_number() or self.atom()


def negated(node: Node) -> Node:
    """Return the node of the negative."""
    return number(-node.args[0]) if node.op == "num" else Node("mul", (number(-1), node))


def called(name: str, arguments: list[Node]) -> Node:
    """Return a call of a function that only the problem defines; `C(10,3)` and `P(10,3)` count combinations."""
    if name in ("C", "P") and len(arguments) == 2:
        return Node("fn", ("binom" if name == "C" else "permutations", *arguments))
    return Node("call", (name, *arguments))


def _times(left: Node, right: Node) -> Node:
    return Node("mul", (left, right))
