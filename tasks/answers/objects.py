"""Comparing small objects: times, ratios, numbers in a base, and residues."""

from __future__ import annotations

from tasks.answers.forms import difference
from tasks.answers.integers import TooLarge
from tasks.answers.kinds import based_value
from tasks.answers.proof import decide, exact_form
from tasks.answers.tree import Based, Clock, Congruence, Expression, Node, Ratio, Reading, Value, number
from tasks.answers.verdicts import OTHER_KIND, Basis, Outcome, Verdict, different, equal, together, weaker


def compare_clock(x: Clock, y: Reading) -> Verdict:
    """Compare a time of day."""
    if not isinstance(y, Clock):
        return OTHER_KIND
    if (x.hours, x.minutes) == (y.hours, y.minutes) and (x.half == y.half or "" in (x.half, y.half)):
        return equal("the same time", Basis.PROOF if x.half == y.half else Basis.CONVENTION)
    return different("different times", Basis.CONVENTION)


def compare_ratio(x: Ratio, y: Reading) -> Verdict:
    """Compare a ratio; parts may have a common factor."""
    if isinstance(y, Clock):
        y = Ratio(parts=(Expression(number(y.hours)), Expression(number(y.minutes))))
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
    if decide(a, b).outcome is Outcome.EQUAL:
        return True
    forms = [exact_form(one) for one in (a, b, modulus)]
    if any(form is None or form.rational is None for form in forms):
        return False
    try:
        gap = difference(forms[0], forms[1]).rational  # type: ignore[arg-type]
    except TooLarge:
        return False
    size = forms[2].rational  # type: ignore[union-attr]
    return bool(size) and (gap / size).q == 1
