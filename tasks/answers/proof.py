"""Whether two expressions are equal: by exact arithmetic where that is possible, otherwise by balls of rising precision.

Differences are always proved: by exact forms, or by two balls that are apart. Equality is proved by normal forms or in
Calcium's field; values that agree to the last precision are equal by evidence only.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Final

from flint import arb, fmpq

from tasks.answers.algebraic import NotAlgebraic, same_number
from tasks.answers.balls import LOCK, PRECISIONS, Evaluator, Unclear
from tasks.answers.forms import Form, form_of, key, same_form
from tasks.answers.integers import TooLarge, Undefined
from tasks.answers.tree import Expression, Node, free_variables, number, walk
from tasks.answers.verdicts import UNDECIDED, Basis, Outcome, Verdict, by_ruling, different, equal

_CONSTANT_POINT: Final[dict[str, Any]] = {}
_REAL_POINTS: Final = ((1, 2, 2), (1, 2, 2), (1, 1, 0), (-1, 2, 2), (-1, 1, 0), (0, 2, 2))
"""For each point: its sign (0: mixed), and the width and the lower end of the range of the absolute values."""
_DENOMINATOR: Final = 2**31 - 1
_WHOLE_POINTS: Final = tuple((step, 4, 13) for step in range(6))
_LARGE_POINTS: Final = tuple((step, 20, 9973) for step in range(6))
"""For each point: the step from one unknown to the next, and the lower end and the size of the range."""
_WHOLE_NAMES: Final = frozenset("jklmnpqNMK")
_ROUNDED: Final = frozenset(("floor", "ceil"))
_PERIODIC: Final = frozenset(("gcd", "lcm", "mod"))
"""Functions that may agree at any few points and differ elsewhere."""


def decide(a: Expression, b: Expression) -> Verdict:
    """Return whether two expressions are equal wherever both are defined."""
    if a.node == b.node:
        return equal("the same expression")
    if _plain_logarithm(a) or _plain_logarithm(b):
        return _decide_logarithms(a, b)
    return _decided(_without_calls(a), _without_calls(b))


def exact_form(expression: Expression) -> Form | None:
    """Return the normal form; None if it is too large or undefined."""
    if "form" not in expression.cache:
        try:
            expression.cache["form"] = form_of(expression.node)
        except (TooLarge, Undefined, RecursionError):
            expression.cache["form"] = None
    return expression.cache["form"]


def sign_of_difference(a: Expression, b: Expression) -> int | None:
    """Return -1, 0 or 1 for real constants a < b, a = b, a > b; None if that is not clear."""
    if a.variables or b.variables:
        return None
    verdict = decide(a, b)
    if verdict.outcome is Outcome.EQUAL:
        return 0
    for precision in PRECISIONS:
        try:
            with LOCK:
                x, y = (Evaluator(_CONSTANT_POINT, precision, real=False).value(one.node) for one in (a, b))
                if not (isinstance(x, arb) and isinstance(y, arb)):
                    return None
                if x < y or x > y:
                    return -1 if x < y else 1
        except (Unclear, Undefined):
            continue
    return None


def _decided(a: Expression, b: Expression) -> Verdict:
    first, second = exact_form(a), exact_form(b)
    if first is not None and second is not None:
        x, y = first.rational, second.rational
        if x is not None and y is not None:
            return equal("the same rational number") if x == y else different("different rational numbers")
        if first.polynomial and second.polynomial:
            same = _same_form(first, second)
            if same is not None:
                return equal("the same rational function") if same else _different_functions(a, b)
    return _decide_functions(a, b) if a.variables | b.variables else _decide_constants(a, b)


def _different_functions(a: Expression, b: Expression) -> Verdict:
    if a.variables != b.variables:
        return different("different unknowns", Basis.CONVENTION)
    return different("different functions")


def _same_form(first: Form | None, second: Form | None) -> bool | None:
    if first is None or second is None:
        return None
    try:
        return same_form(first, second)
    except TooLarge:
        return None


# --- constants ---------------------------------------------------------------------------------------------------


def _decide_constants(a: Expression, b: Expression) -> Verdict:
    for step, precision in enumerate(PRECISIONS):
        x, y = _ball(a, precision), _ball(b, precision)
        if x is None or y is None:
            continue
        if not _overlap(x[0], y[0]):
            return different("values that are apart")
        if step == 0:
            proved = _proved_equal(a, b)
            if proved is not None:
                return proved
    last_a, last_b = _ball(a, PRECISIONS[-1]), _ball(b, PRECISIONS[-1])
    if last_a is None or last_b is None:
        proved = _proved_equal(a, b)
        return UNDECIDED if proved is None else proved
    agrees = _agrees(last_a[0], last_b[0], min(last_a[1], last_b[1]))
    return equal(f"values agree to {PRECISIONS[-1]} bits", Basis.EVIDENCE) if agrees else UNDECIDED


def _proved_equal(a: Expression, b: Expression) -> Verdict | None:
    if _same_form(exact_form(a), exact_form(b)):
        return equal("the same normal form")
    try:
        same = same_number(a.node, b.node)
    except NotAlgebraic:
        return None
    if same is None:
        return None
    return equal("the same algebraic number") if same else different("different algebraic numbers")


def _ball(expression: Expression, precision: int) -> tuple[Any, int] | None:
    """Return the value of a constant and its smallest intermediate magnitude; None if it is undefined or not clear."""
    if precision not in expression.cache:
        evaluator = Evaluator(_CONSTANT_POINT, precision, real=False)
        try:
            with LOCK:
                expression.cache[precision] = (evaluator.value(expression.node), evaluator.smallest)
        except (Unclear, Undefined, RecursionError):
            expression.cache[precision] = None
    return expression.cache[precision]


def _overlap(x: Any, y: Any) -> bool:
    with LOCK:
        return bool((x - y).contains(0)) if type(x) is not type(y) else bool(x.overlaps(y))


def _agrees(x: Any, y: Any, smallest: int) -> bool:
    """Return whether two overlapping values are so close that no value on the way is lost in their error."""
    with LOCK:
        bound = (x - y).abs_upper()
        return bool(bound < arb(2) ** (smallest - 200))


# --- functions of unknowns ---------------------------------------------------------------------------------------


def _decide_functions(a: Expression, b: Expression) -> Verdict:
    operations = a.operations | b.operations
    real, names = "i" not in operations, sorted(a.variables | b.variables)
    whole = bool(operations & _ROUNDED) and _WHOLE_NAMES.issuperset(names)
    met: list[dict[str, Any]] = []
    for point in _points(a, b, names, whole=whole):
        together = _compared_at(a, b, point, real, PRECISIONS[:3])
        if together is False:
            return _different_functions(a, b)
        if together:
            met.append(point)
    if _same_form(exact_form(a), exact_form(b)):
        return equal("the same normal form")
    if len(met) < 2 or operations & _PERIODIC:
        return UNDECIDED
    for point in met[:4]:
        together = _compared_at(a, b, point, real, PRECISIONS[3:4])
        if not together:
            return _different_functions(a, b) if together is False else UNDECIDED
    agreement = equal(f"values agree at {len(met)} points", Basis.EVIDENCE)
    return by_ruling(agreement, "whole numbers in a rounded expression") if whole else agreement


def _compared_at(
    a: Expression, b: Expression, point: dict[str, Any], real: bool, precisions: tuple[int, ...]
) -> bool | None:
    """Return whether the values at a point agree; None where one of them is undefined or not clear."""
    for precision in precisions:
        evaluators = [Evaluator(point, precision, real=real) for _ in range(2)]
        try:
            with LOCK:
                x, y = (one.value(side.node) for one, side in zip(evaluators, (a, b), strict=True))
        except Undefined:
            return None
        except (Unclear, RecursionError):
            continue
        if not _overlap(x, y):
            return False
        if _close(x, y, min(one.smallest for one in evaluators)):
            return True
    return None


def _close(x: Any, y: Any, smallest: int) -> bool:
    with LOCK:
        return bool((x - y).abs_upper() < arb(2) ** (smallest - 30))


def _points(a: Expression, b: Expression, names: list[str], *, whole: bool) -> Iterator[dict[str, Any]]:
    """Yield values of the unknowns, drawn from a hash of both expressions, so that they are the same in every process.

    `whole`: whole numbers only.
    """
    pair = "\0".join(sorted((a.shown, b.shown)))
    for place, (sign, width, low) in enumerate(() if whole else _REAL_POINTS):
        drawn = [1 + _drawn(pair, name, place) % (_DENOMINATOR - 1) for name in names]
        signs = [sign or (-1 if order % 2 else 1) for order in range(len(names))]
        yield {
            name: one * (low + fmpq(width * value, _DENOMINATOR))
            for name, one, value in zip(names, signs, drawn, strict=True)
        }
    for step, low, size in _WHOLE_POINTS + (_LARGE_POINTS if whole else ()):
        steps = [
            step * (2 * order + 1) + order * step * step // 2 for order in range(len(names))
        ]  # of every parity
        yield {
            name: fmpq(low + (_drawn(pair, name, low) + more) % size)
            for name, more in zip(names, steps, strict=True)
        }


def _drawn(pair: str, name: str, place: int) -> int:
    return int.from_bytes(blake2b(f"{pair}\0{name}\0{place}".encode(), digest_size=8).digest(), "big")


# --- notation of functions ---------------------------------------------------------------------------------------


def _plain_logarithm(expression: Expression) -> bool:
    if "log" not in expression.operations:
        return False
    return any(
        node.op == "fn" and node.args[0] == "log" and len(node.args) == 2 for node in walk(expression.node)
    )


def _decide_logarithms(a: Expression, b: Expression) -> Verdict:
    """Compare logarithms without a base: equal for the base 10 or e; by proof if for both."""
    bases = (number(10), Node("const", ("e",)))
    verdicts = [_decided(*(_without_calls(_based(side, base)) for side in (a, b))) for base in bases]
    found = [verdict for verdict in verdicts if verdict.outcome is Outcome.EQUAL]
    if len(found) == 2:
        return found[0]
    if found and not (_plain_logarithm(a) and _plain_logarithm(b)):
        return equal("a logarithm without a base", Basis.CONVENTION)
    undecided = [verdict for verdict in verdicts if verdict.outcome is Outcome.UNDECIDED]
    return undecided[0] if undecided else different("different for both bases of the logarithm")


def _based(expression: Expression, base: Node) -> Expression:
    return Expression(_rewritten(expression.node, "log", base))


def _rewritten(node: Node, name: str, base: Node) -> Node:
    arguments = tuple(_rewritten(one, name, base) if isinstance(one, Node) else one for one in node.args)
    plain = node.op == "fn" and node.args[0] == name and len(node.args) == 2
    return Node(node.op, (*arguments, base) if plain else arguments)


def _without_calls(expression: Expression) -> Expression:
    """Replace calls of functions that only the problem defines, such as `f(0)`, by unknowns."""
    if "call" not in expression.operations:
        return expression
    if "calls" not in expression.cache:
        expression.cache["calls"] = Expression(_call_free(expression.node))
    return expression.cache["calls"]


def _call_free(node: Node) -> Node:
    bound = node.op in ("sum", "product") and any(
        one.op == "call" and node.args[0] in free_variables(one) for one in walk(node.args[3])
    )
    if node.op == "call" or bound:  # a call that depends on the index of a sum is no unknown of its own
        try:
            shown = key(form_of(node))
        except (TooLarge, Undefined):
            shown = repr(node)
        return Node("var", (shown,))
    return Node(node.op, tuple(_call_free(one) if isinstance(one, Node) else one for one in node.args))
