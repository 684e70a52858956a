"""The typed tree of an answer: expressions, and the kinds of answers that are built from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

MAX_NODES: Final = 1500
MAX_DEPTH: Final = 60


class Node(NamedTuple):
    """A node of an expression. `num`, `var` and `const` hold a value or a name, all other operations hold nodes.

    The arguments of `fn` and `call` are a name and nodes; those of `sum` and `product` an index name, both bounds, the body.
    """

    op: str
    args: tuple[Any, ...]


def number(value: Fraction | int) -> Node:
    """Return the node of a rational number."""
    return Node("num", (Fraction(value),))


def children(node: Node) -> Iterator[Node]:
    """Yield the nodes among the arguments."""
    return (argument for argument in node.args if isinstance(argument, Node))


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes below it."""
    pending = [node]
    while pending:
        found = pending.pop()
        yield found
        pending.extend(children(found))


def substitute(node: Node, name: str, value: Node) -> Node:
    """Replace a variable by a node, except where a sum or product binds the same name."""
    if node.op == "var":
        return value if node.args[0] == name else node
    if node.op in ("sum", "product") and node.args[0] == name:
        index, low, high, body = node.args
        return Node(node.op, (index, substitute(low, name, value), substitute(high, name, value), body))
    if node.op in ("num", "const"):
        return node
    return Node(
        node.op,
        tuple(substitute(one, name, value) if isinstance(one, Node) else one for one in node.args),
    )


def free_variables(node: Node) -> frozenset[str]:
    """Return the names of the variables that no sum or product binds."""
    if node.op == "var":
        return frozenset(node.args)
    found = frozenset().union(*(free_variables(one) for one in children(node)))
    return found - {node.args[0]} if node.op in ("sum", "product") else found


@dataclass(eq=False)
class Expression:
    """A parsed expression. Compared by identity, so that results can be cached on it.

    `places` is the number of decimal places if the text is one decimal number, such as 3 for `-1.250`; None otherwise.
    """

    node: Node
    places: int | None = None
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names of its free variables."""
        return free_variables(self.node)

    @cached_property
    def shown(self) -> str:
        """A text that expressions with the same node share, in every process."""
        return repr(self.node)

    @cached_property
    def operations(self) -> frozenset[str]:
        """The operations and names of functions that occur in it."""
        return frozenset(node.args[0] if node.op in ("fn", "const") else node.op for node in walk(self.node))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit: `factor` base units of `dimension`; `over_pi` for radians, whose factor is divided by pi."""

    dimension: str
    factor: Fraction = Fraction(1)
    over_pi: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A number or expression, with its unit if one is given. `percent`: written with a percent sign."""

    expression: Expression
    unit: Unit | None = None
    percent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Infinite:
    """Plus or minus infinity."""

    sign: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Several answers. `list`: written without brackets, counted with multiplicity; `set`: in braces; `tuple`: in order.

    `brackets` are those of a tuple; a matrix is a tuple of tuples with the brackets `rows`. `names` are the names of the
    entries in `x=1, y=2` (a tuple that is ordered by name) and `(x,y)=(1,2)`; those of a list are all the same: `x=1, x=2`.
    """

    kind: Literal["list", "set", "tuple"]
    items: tuple[Reading, ...]
    brackets: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An interval of real numbers. Degenerate intervals are points."""

    low: Value | Infinite
    high: Value | Infinite
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A union of intervals, in the order in which they were written. `name` is that of the unknown in an inequality."""

    parts: tuple[Interval, ...]
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`name = value`, where the left side is a name. `bound`: the arguments of a function's definition; `strict`: the left side
    is no name, but a calculation that the grammar does not cover, such as `30 hamsters + 15 guinea pigs`."""

    name: str
    value: Reading
    equation: Equation | None = None
    bound: tuple[str, ...] = ()
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Equation:
    """A chain of two or more equal sides, at least one of which is no name."""

    sides: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A chain of expressions with the relation signs between them, such as `a < b <= c`."""

    signs: tuple[str, ...]
    sides: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """`3:4:5`."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """A time of day; `half` is `am`, `pm` or empty."""

    hours: int
    minutes: int
    half: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Based:
    """The digits of a number in a base other than the default."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Congruence:
    """`3 (mod 7)`, of one or several residues."""

    residues: tuple[Expression, ...]
    modulus: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A choice letter followed by its content: `(C) 12`."""

    letter: str
    content: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Words, in a canonical spelling."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """Notation that the grammar does not cover. `wordy`: it has words, so that no symbolic system reads it either."""

    text: str
    wordy: bool = False


Reading = (
    Value | Infinite | Items | Region | Assignment | Equation | Relation | Ratio | Clock | Based | Congruence | Choice
    | Text | Opaque
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The readings of an answer, the most literal one first; each other one with the ruling that it follows.

    `conditions` are those that were written after the answer (`k >= 1`), `dummies` the names that they or the answer
    itself declare as arbitrary.
    """

    readings: tuple[Reading, ...]
    rules: tuple[str, ...]
    conditions: tuple[str, ...] = ()
    dummies: frozenset[str] = frozenset()
