"""Comparing small objects: times, ratios, numbers in a base, and residues."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.answers.forms import Form, constant_quotient, difference, negative, same_form
from tasks.answers.integers import TooLarge
from tasks.answers.kinds import based_value
from tasks.answers.proof import decide, exact_form
from tasks.answers.tree import Based, Clock, Congruence, Expression, Node, Ratio, Reading, Value, number
from tasks.answers.verdicts import OTHER_KIND, Basis, Outcome, Verdict, different, equal, together, weaker


def compare_clock(x: Clock, y: Reading) -> Verdict:
    """Compare a time of day."""
    if not isinstance(y, Clock):
        return OTHER_KIND
    written = (x.hours, x.minutes) == (y.hours, y.minutes) and (x.half == y.half or "" in (x.half, y.half))
    if written or (x.half + y.half and _of_day(x) == _of_day(y)):
        return equal("the same time", Basis.PROOF if x.half == y.half else Basis.CONVENTION)
    return different("different times", Basis.CONVENTION)


def _of_day(time: Clock) -> tuple[int, int]:
    """Return hours and minutes on a clock of 24 hours."""
    return (time.hours % 12 + 12 * (time.half == "p") if time.half else time.hours), time.minutes


def compare_ratio(x: Ratio, y: Reading) -> Verdict:
    """Compare a ratio; parts may have a common factor. Grading accepts the quotient of two parts."""
    if isinstance(y, Value) and len(x.parts) == 2:
        quotient = Expression(Node("div", (x.parts[0].node, x.parts[1].node)))
        found = decide(quotient, y.expression)
        if found.outcome is Outcome.EQUAL and y.unit is None and not y.percent:
            return equal("a ratio and a quotient", Basis.LENIENT)
    if not isinstance(y, Ratio) or len(x.parts) != len(y.parts):
        return OTHER_KIND
    zero = Expression(number(0))
    if any(decide(part, zero).outcome is Outcome.EQUAL for part in x.parts + y.parts):
        return together(decide(a, b) for a, b in zip(x.parts, y.parts, strict=True))
    products = [
        (Node("mul", (a.node, y.parts[0].node)), Node("mul", (b.node, x.parts[0].node)))
        for a, b in zip(x.parts[1:], y.parts[1:], strict=True)
    ]
    return together(decide(Expression(first), Expression(second)) for first, second in products)


def compare_based(x: Based, y: Reading) -> Verdict:
    """Compare a number in a base: by value with another one, by digits with a plain number."""
    if isinstance(y, Based):
        return decide(Expression(number(based_value(x))), Expression(number(based_value(y))))
    if isinstance(y, Value) and _written_digits(y) == x.digits:
        return equal("a base on one side only", Basis.CONVENTION)
    return different("a number in another base", Basis.CONVENTION)


def _written_digits(value: Value) -> str | None:
    """Return the digits of a decimal number, or the letters of `BAD`."""
    expression = value.expression
    if expression.node.op == "num":
        exact = expression.node.args[0]
        return str(exact.numerator) if exact.denominator == 1 else None
    if expression.variables <= set("ABCDEF") and exact_form(expression) is not None:
        return _product_letters(expression.node)
    return None


def _product_letters(node: Node) -> str | None:
    if node.op == "mul":
        parts = [_product_letters(one) for one in node.args]
        return None if None in parts else "".join(part for part in parts if part)
    if node.op == "num" and node.args[0].denominator == 1:
        return str(node.args[0])
    return node.args[0].lower() if node.op == "var" else None


def compare_congruence(x: Congruence, y: Reading) -> Verdict:
    """Compare residues in any order; a modulus on one side only is ignored."""
    if not isinstance(y, Congruence):
        if len(x.residues) != 1 or not isinstance(y, Value) or y.unit is not None:
            return OTHER_KIND
        (residue,) = x.residues
        progression = progression_of(y.expression)
        if progression is not None and y.expression.variables - residue.variables:
            return _same_progression(residue, x.modulus, progression)
        return weaker(decide(residue, y.expression), "a modulus on one side only")
    moduli = decide(x.modulus, y.modulus)
    if moduli.outcome is not Outcome.EQUAL or len(x.residues) != len(y.residues):
        return different("different moduli", Basis.CONVENTION)
    remaining = list(y.residues)
    for residue in x.residues:
        place = next(
            (i for i, other in enumerate(remaining) if _same_residue(residue, other, x.modulus)), None
        )
        if place is None:
            return different("different residues", Basis.CONVENTION)
        del remaining[place]
    return equal("the same residues")


def _same_residue(a: Expression, b: Expression, modulus: Expression) -> bool:
    return decide(a, b).outcome is Outcome.EQUAL or _is_multiple(
        exact_form(a), exact_form(b), exact_form(modulus)
    )


def _is_multiple(a: Form | None, b: Form | None, modulus: Form | None) -> bool:
    """Return whether a - b is a whole multiple of the modulus."""
    if a is None or b is None or modulus is None:
        return False
    try:
        gap = constant_quotient(difference(a, b), modulus)
    except TooLarge:
        return False
    return gap is not None and gap.q == 1


# --- progressions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progression:
    """The numbers step * k + shift for all integers k: `4k+1`, or `k pi + pi/6`."""

    step: Form
    shift: Form


def progression_of(expression: Expression) -> Progression | None:
    """Return the progression that an expression with one unknown is; None if it is none, or may be a formula, as `3n` is.

    Its terms are whole numbers, the step greater than 1, or rational multiples of pi.
    """
    form = exact_form(expression)
    if form is None or len(expression.variables) != 1 or len(form.bottom) != 1 or len(form.top) > 2:
        return None
    (name,) = expression.variables
    step, shift = {}, {}
    for monomial, value in form.top.items():
        kept = tuple(power for power in monomial if power[0] != f"v:{name}")
        if kept not in ((), (("c:pi", 1),)) or monomial not in (
            kept,
            tuple(sorted((*kept, (f"v:{name}", 1)))),
        ):
            return None
        (shift if kept == monomial else step)[kept] = value
    if not step or (shift and shift.keys() != step.keys()):
        return None
    slope = next(iter(step.values()))
    if () in step and not (shift and slope.q == 1 and abs(slope) > 1):
        return None
    return Progression(Form(step, form.bottom), Form(shift, form.bottom))


def same_progression(a: Expression, b: Expression) -> bool:
    """Return whether two expressions are one progression: `4k+1` and `4n-3`."""
    x, y = progression_of(a), progression_of(b)
    if (
        x is None
        or y is None
        or not (same_form(x.step, y.step) or not difference(x.step, negative(y.step)).top)
    ):
        return False
    return _is_multiple(x.shift, y.shift, x.step)


def _same_progression(residue: Expression, modulus: Expression, other: Progression) -> Verdict:
    """Compare a residue class with a progression."""
    size = exact_form(modulus)
    same = size is not None and size.rational is not None and size.rational == abs(other.step.rational or 0)
    if same and _is_multiple(exact_form(residue), other.shift, size):
        return equal("a residue class and a progression", Basis.CONVENTION)
    return different("different residues", Basis.CONVENTION)
