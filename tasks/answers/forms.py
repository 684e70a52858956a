"""A normal form of expressions: quotients of sums of products of powers, with exact coefficients.

Two expressions with equal normal forms are equal wherever both are defined. The factors ("atoms") are variables, pi, e, i,
roots of primes, and everything else (functions, roots of sums, powers with a variable exponent) by the normal form of its
parts. If all atoms are variables with integer exponents, different forms are different expressions, too.

Work is counted, not timed: `TooLarge` is raised before an operation that would exceed the limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import comb, factorial
from typing import Any, Final

from flint import fmpq

from tasks.answers.integers import MAX_COUNT, TooLarge, Undefined, exact_function, prime_factors
from tasks.answers.tree import Node, number, substitute

Exponent = int | Fraction
Monomial = tuple[tuple[str, Exponent], ...]
Polynomial = dict[Monomial, Any]

MAX_TERMS: Final = 1500
MAX_PRODUCTS: Final = 12_000
MAX_BITS: Final = 400_000
_WHOLE_POWERS: Final = MAX_BITS // 32
MAX_UNROLLED: Final = 400
MAX_EXPONENT_BITS: Final = 4000
MAX_NAME: Final = 8000


@dataclass(frozen=True, slots=True)
class Form:
    """A quotient of two polynomials in atoms; the denominator is never zero."""

    top: Polynomial
    bottom: Polynomial

    @property
    def rational(self) -> Any | None:
        """The rational number that it is, if it is one."""
        if len(self.top) > 1 or len(self.bottom) > 1 or next(iter(self.top), ()) or next(iter(self.bottom)):
            return None
        return self.top.get((), fmpq(0)) / self.bottom[()]

    @property
    def polynomial(self) -> bool:
        """Whether all atoms are variables with integer exponents, so that different forms are different functions."""
        return all(
            atom.startswith("v:") and isinstance(power, int)
            for part in (self.top, self.bottom)
            for monomial in part
            for atom, power in monomial
        )


_ONE: Final[Polynomial] = {(): fmpq(1)}


def form_of(node: Node) -> Form:
    """Return the normal form. Raises `TooLarge` and `Undefined`."""
    return _Normaliser().form(node)


def same_form(a: Form, b: Form) -> bool:
    """Return whether both have the same normal form. Raises `TooLarge`."""
    if a.bottom == b.bottom:
        return a.top == b.top
    work = _Normaliser()
    return work.times(a.top, b.bottom) == work.times(b.top, a.bottom)


def difference(a: Form, b: Form) -> Form:
    """Return a - b. Raises `TooLarge`."""
    return _Normaliser().add(a, negative(b))


def negative(form: Form) -> Form:
    """Return -a."""
    return Form({monomial: -value for monomial, value in form.top.items()}, form.bottom)


def constant_quotient(a: Form, b: Form) -> Any | None:
    """Return the rational number a / b; None if it is none. Raises `TooLarge`."""
    work = _Normaliser()
    x, y = work.times(a.top, b.bottom), work.times(b.top, a.bottom)
    if not x or x.keys() != y.keys():
        return fmpq(0) if y and not x else None
    quotients = {value / y[monomial] for monomial, value in x.items()}
    return quotients.pop() if len(quotients) == 1 else None


def key(form: Form) -> str:
    """Return a text that equal forms share."""
    return f"{_shown(form.top)}/{_shown(form.bottom)}" if form.bottom != _ONE else _shown(form.top)


def _shown(polynomial: Polynomial) -> str:
    return "+".join(
        sorted(
            f"{value}*" + "*".join(f"{atom}^{power}" for atom, power in monomial)
            for monomial, value in polynomial.items()
        )
    )


def _constant(value: Any) -> Form:
    value = fmpq(value.numerator, value.denominator) if isinstance(value, Fraction) else fmpq(value)
    return Form({(): value} if value else {}, _ONE)


def _atom(name: str, power: Exponent = 1) -> Form:
    if len(name) > MAX_NAME:  # it contains the forms of its parts, and doubles with each level of a tower
        raise TooLarge
    return Form({((name, power),): fmpq(1)}, _ONE)


def _largest(polynomial: Polynomial) -> int:
    return max((2 * int(value.height_bits()) for value in polynomial.values()), default=0)


def _absorbed(monomial: Monomial, value: Any) -> tuple[Monomial, Any]:
    """Move factors of the coefficient into powers that are too large to be written out: 2 * 2^(10^9)."""
    if not any(atom[:2] == "p:" and abs(power) > _WHOLE_POWERS for atom, power in monomial):
        return monomial, value
    powers = []
    for atom, power in monomial:
        if atom[:2] == "p:" and abs(power) > _WHOLE_POWERS:
            prime = int(atom[2:])
            while value and value.p % prime == 0:
                value, power = value / prime, power + 1
            while value and value.q % prime == 0:
                value, power = value * prime, power - 1
        powers.append((atom, power))
    return tuple(powers), value


def _whole(power: Exponent) -> Exponent:
    return power.numerator if isinstance(power, Fraction) and power.denominator == 1 else power


def joined(a: Monomial, b: Monomial) -> Monomial:
    """Return the product of two monomials."""
    if not a or not b:
        return a or b
    powers = dict(a)
    for atom, power in b:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted((atom, _whole(power)) for atom, power in powers.items() if power))


class _Normaliser:
    """Builds forms, with a budget of products of terms for the whole expression."""

    def __init__(self) -> None:
        self.products = 0

    def form(self, node: Node) -> Form:
        """Return the form of an expression."""
        operation, arguments = node
        leaf = _LEAVES.get(operation)
        if leaf is not None:
            return leaf(arguments[0])
        if operation in ("sum", "product"):
            return self.iterated(operation, *arguments)
        if operation in ("call", "fn"):
            inside = [self.form(one) for one in arguments[1:]]
            if operation == "fn":
                return self.function(arguments[0], inside)
            return _atom(f"call:{arguments[0]}({';'.join(map(key, inside))})")
        return self.operation(operation, [self.form(one) for one in arguments])

    def operation(self, operation: str, forms: list[Form]) -> Form:
        if operation == "div":
            return self.multiply(forms[0], self.inverse(forms[1]))
        if operation == "deg":
            return self.multiply(forms[0], Form({(("c:pi", 1),): fmpq(1, 180)}, _ONE))
        return _OPERATIONS[operation](self, *forms)

    # --- arithmetic ---

    def add(self, a: Form, b: Form) -> Form:
        if a.bottom == b.bottom:
            return self.made(self.plus(a.top, b.top), a.bottom)
        top = self.plus(self.times(a.top, b.bottom), self.times(b.top, a.bottom))
        return self.made(top, self.times(a.bottom, b.bottom))

    def multiply(self, a: Form, b: Form) -> Form:
        return self.made(self.times(a.top, b.top), self.times(a.bottom, b.bottom))

    def inverse(self, form: Form) -> Form:
        if not form.top:
            raise Undefined
        return self.made(form.bottom, form.top)

    def made(self, top: Polynomial, bottom: Polynomial) -> Form:
        """Return the quotient; a denominator of one term moves into the numerator."""
        if not top:
            return Form({}, _ONE)
        if len(bottom) == 1 and bottom is not _ONE:
            ((monomial, value),) = bottom.items()
            turned = {tuple((atom, -power) for atom, power in monomial): 1 / value}
            return Form(self.times(top, turned), _ONE)
        return Form(top, bottom)

    def plus(self, a: Polynomial, b: Polynomial) -> Polynomial:
        """Return the sum of two polynomials."""
        if len(a) < len(b):
            a, b = b, a
        total = dict(a)
        for monomial, value in b.items():
            found = total.get(monomial)
            value = value if found is None else found + value
            if value:
                total[monomial] = value
            else:
                del total[monomial]
        if len(total) > MAX_TERMS:
            raise TooLarge
        return total

    def times(self, a: Polynomial, b: Polynomial) -> Polynomial:
        """Return the product of two polynomials, within the budget."""
        if a is _ONE or b is _ONE:
            return b if a is _ONE else a
        bits = _largest(a) + _largest(b)
        self.products += len(a) * len(b) * (1 + bits // 2048)
        if self.products > MAX_PRODUCTS or bits > MAX_BITS:
            raise TooLarge
        total: Polynomial = {}
        for first, x in a.items():
            for second, y in b.items():
                monomial, factor = self.reduced(joined(first, second))
                monomial, term = _absorbed(monomial, x * y * factor)
                value = total.get(monomial, 0) + term
                if value:
                    total[monomial] = value
                else:
                    del total[monomial]
        return total

    def reduced(self, monomial: Monomial) -> tuple[Monomial, Any]:
        """Take whole powers of primes and the squares of i out of a product of atoms."""
        if not any(atom[:2] == "p:" or atom == "c:i" for atom, _ in monomial):
            return monomial, 1
        factor, kept = fmpq(1), []
        for atom, power in monomial:
            if atom == "c:i":
                turns = int(power) % 4
                factor *= -1 if turns >= 2 else 1
                power = turns % 2
            elif atom[:2] == "p:":
                whole = power.numerator // power.denominator
                if abs(whole) <= _WHOLE_POWERS:
                    factor *= fmpq(int(atom[2:])) ** whole
                    power = _whole(power - whole)
            if power:
                kept.append((atom, power))
        return tuple(kept), factor

    # --- powers ---

    def power(self, base: Form, exponent: Form) -> Form:
        """Return a power. A fractional power of a negative number is undefined, because conventions differ."""
        if _largest(exponent.top) > MAX_EXPONENT_BITS:
            raise TooLarge
        constant = exponent.rational
        if constant is None:
            return self.exponential(base, exponent)
        if constant.q == 1:
            return self.whole_power(base, int(constant.p))
        value = base.rational
        if value is not None and value < 0:
            raise Undefined
        return self.fractional(base, Fraction(int(constant.p), int(constant.q)))

    def whole_power(self, base: Form, exponent: int) -> Form:
        """Return an integer power by repeated squaring."""
        if exponent == 0:
            return _constant(1)
        if exponent < 0:
            return self.whole_power(self.inverse(base), -exponent)
        if len(base.top) <= 1 and base.bottom is _ONE:
            return self.term_power(base, exponent)
        for part in (base.top, base.bottom):
            if len(part) > 1 and (exponent > 300 or comb(exponent + len(part) - 1, exponent) > MAX_TERMS):
                raise TooLarge
        result, square = _constant(1), base
        while exponent:
            if exponent % 2:
                result = self.multiply(result, square)
            exponent //= 2
            square = self.multiply(square, square) if exponent else square
        return result

    def term_power(self, base: Form, exponent: int) -> Form:
        """Return the power of a single term."""
        if not base.top:
            return base
        ((monomial, value),) = base.top.items()
        raised = tuple((atom, _whole(power * exponent)) for atom, power in monomial)
        if abs(value) == 1:
            coefficient = Form({(): value if exponent % 2 else fmpq(1)}, _ONE)
        elif _largest(base.top) * exponent <= MAX_BITS:
            coefficient = Form({(): value**exponent}, _ONE)
        else:
            coefficient = self.rational_power(abs(value), Fraction(exponent))
            if value < 0 and exponent % 2:
                coefficient = self.multiply(coefficient, _constant(-1))
        return self.multiply(coefficient, self.reduced_term(raised))

    def reduced_term(self, monomial: Monomial) -> Form:
        kept, factor = self.reduced(monomial)
        return Form({kept: fmpq(1) * factor}, _ONE)

    def rational_power(self, value: Any, power: Fraction) -> Form:
        """Return a power of a positive rational as a product of powers of primes."""
        monomial = [(atom, _whole(count * power)) for atom, count in _factors(value)]
        if any(abs(exponent) > _WHOLE_POWERS for _, exponent in monomial):
            if any(int(atom[2:]).bit_length() * abs(exponent) < MAX_BITS for atom, exponent in monomial):
                raise TooLarge  # partly written out: not comparable by form
            return Form({tuple(sorted(monomial)): fmpq(1)}, _ONE)
        size = sum(int(atom[2:]).bit_length() * abs(exponent) for atom, exponent in monomial)
        if size > MAX_BITS:
            raise TooLarge
        return self.reduced_term(tuple(sorted(monomial)))

    def fractional(self, base: Form, power: Fraction) -> Form:
        """Return a power with a rational exponent, with an atom for the root unless it is exact."""
        if not base.top:
            if power > 0:
                return base
            raise Undefined
        if len(base.top) == 1 and base.bottom is _ONE:
            ((monomial, value),) = base.top.items()
            if value > 0 and all(_splits(atom, exponent) for atom, exponent in monomial):
                raised = tuple((atom, _whole(exponent * power)) for atom, exponent in monomial)
                return self.multiply(self.rational_power(value, power), self.reduced_term(raised))
            if value < 0 and not monomial and power == Fraction(1, 2):
                return self.multiply(self.rational_power(-value, power), _atom("c:i"))
        whole = power.numerator // power.denominator
        root = _atom(f"root:{key(base)}:{power - whole}")
        return self.multiply(self.whole_power(base, whole), root) if whole else root

    def root(self, base: Form, degree: Form) -> Form:
        """Return the principal root; for an odd degree and a negative number its real root."""
        n = degree.rational
        if n is None or n.q != 1 or not 1 <= n.p <= 1000:
            raise Undefined
        if len(base.top) == 1 and n.p % 2 and next(iter(base.top.values())) < 0:
            return self.multiply(_constant(-1), self.root(self.multiply(base, _constant(-1)), degree))
        return self.fractional(base, Fraction(1, int(n.p)))

    def exponential(self, base: Form, exponent: Form) -> Form:
        """Return a power with a variable exponent: one atom for each base and term of the exponent."""
        if exponent.bottom is not _ONE:
            return _atom(f"power:{key(base)}:{key(exponent)}")
        result = _constant(1)
        for name, weight in _bases(base):
            for monomial, value in exponent.top.items():
                power = _whole(Fraction(int(value.p), int(value.q)) * weight)
                if monomial:
                    shown = "*".join(f"{atom}^{count}" for atom, count in monomial)
                    result = self.multiply(result, _atom(f"power:{name}:{shown}", power))
                elif name.startswith("p:"):
                    result = self.multiply(result, self.rational_power(fmpq(int(name[2:])), Fraction(power)))
                elif name == "-1":
                    if not isinstance(power, int):
                        raise Undefined
                    result = self.multiply(result, _constant(-1 if power % 2 else 1))
                elif name.startswith("("):
                    return _atom(f"power:{key(base)}:{key(exponent)}")
                else:
                    result = self.multiply(result, _atom(name, power))
        return result

    # --- functions ---

    def function(self, name: str, arguments: list[Form]) -> Form:
        """Return the value of a function: through other forms, exactly, or as an atom."""
        if name in ("tan", "sec", "cot", "csc"):
            return self.reciprocal_trigonometric(name, arguments[0])
        if name == "cis":
            turned = self.multiply(self.function("sin", arguments), _atom("c:i"))
            return self.add(self.function("cos", arguments), turned)
        if name == "exp":
            return self.power(_atom("c:e"), arguments[0])
        if name in ("ln", "log"):
            return self.logarithm(name, arguments)
        if name == "binom":
            return self.binomial(*arguments)
        values = [one.rational for one in arguments]
        if None not in values:
            exact = exact_function(name, values)
            if exact is not None:
                return _constant(exact)
        keys = [key(one) for one in arguments]
        return _atom(f"{name}({';'.join(sorted(keys) if name in ('max', 'min', 'gcd', 'lcm') else keys)})")

    def reciprocal_trigonometric(self, name: str, argument: Form) -> Form:
        sine, cosine = (self.function(one, [argument]) for one in ("sin", "cos"))
        top = {"tan": sine, "cot": cosine}.get(name, _constant(1))
        return self.multiply(top, self.inverse(cosine if name in ("tan", "sec") else sine))

    def logarithm(self, name: str, arguments: list[Form]) -> Form:
        """Return a logarithm; that of a positive product of primes, e and pi is expanded."""
        if name == "log" and len(arguments) == 1:
            return _atom(f"log({key(arguments[0])})")
        if len(arguments) == 2:
            base = self.logarithm("ln", [arguments[1]])
            return self.multiply(self.logarithm("ln", [arguments[0]]), self.inverse(base))
        argument = arguments[0]
        if not argument.top:
            raise Undefined
        if len(argument.top) == 1 and argument.bottom is _ONE:
            ((monomial, value),) = argument.top.items()
            if value > 0 and all(atom[:2] == "p:" or atom in ("c:e", "c:pi") for atom, _ in monomial):
                return self.expanded_logarithm(monomial, value)
        return _atom(f"ln({key(argument)})")

    def expanded_logarithm(self, monomial: Monomial, value: Any) -> Form:
        """Return the logarithm of a positive number as a sum of logarithms of primes."""
        total: Polynomial = {}
        for atom, power in (*monomial, *_factors(value)):
            found: Monomial = () if atom == "c:e" else ((f"ln({atom})", 1),)
            exact = Fraction(power)
            total = self.plus(total, {found: fmpq(exact.numerator, exact.denominator)})
        return Form(total, _ONE)

    def binomial(self, n: Form, k: Form) -> Form:
        """Return a binomial coefficient, as a polynomial in `n` if only `k` is known."""
        top, below = n.rational, k.rational
        if below is not None and below.q == 1 and 0 <= below.p <= (8 if top is None else MAX_COUNT):
            count = int(below.p)
            if top is not None and top.q == 1 and 0 <= top.p <= MAX_COUNT:
                return _constant(comb(int(top.p), count))
            if top is None:
                result = _constant(Fraction(1, factorial(count)))
                for step in range(count):
                    result = self.multiply(result, self.add(n, _constant(-step)))
                return result
        if top is not None and below is not None:
            raise Undefined if top.q != 1 or below.q != 1 or top.p < 0 else TooLarge
        return _atom(f"binom({key(n)};{key(k)})")

    def iterated(self, operation: str, index: str, low: Node, high: Node, body: Node) -> Form:
        """Return a sum or product over an index, written out if its limits are integers."""
        first, last = self.form(low), self.form(high)
        start, stop = first.rational, last.rational
        if start is None or stop is None:
            inner = key(self.form(substitute(body, index, Node("var", ("\\index",)))))
            return _atom(f"{operation}({key(first)};{key(last)};{inner})")
        if start.q != 1 or stop.q != 1:
            raise Undefined
        if stop - start > MAX_UNROLLED:
            raise TooLarge
        result = _constant(0 if operation == "sum" else 1)
        for value in range(int(start.p), int(stop.p) + 1):
            term = self.form(substitute(body, index, number(value)))
            result = self.add(result, term) if operation == "sum" else self.multiply(result, term)
        return result


def _factors(value: Any) -> list[tuple[str, int]]:
    """Return the primes of a positive rational number, as atoms, with their exponents."""
    return [
        (f"p:{prime}", sign * count)
        for part, sign in ((value.p, 1), (value.q, -1))
        for prime, count in prime_factors(part)
    ]


def _splits(atom: str, exponent: Exponent) -> bool:
    """Return whether a root of this power may be written as a power: not `(x^2)^(1/2)`, which is |x|."""
    positive = atom.startswith("p:") or atom in ("c:e", "c:pi")
    return positive or (atom.startswith("v:") and isinstance(exponent, int) and exponent % 2 == 1)


def _bases(base: Form) -> list[tuple[str, Exponent]]:
    """Return the atoms, with weights, whose powers make a power of `base`."""
    value = base.rational
    if value is not None and value:
        return [("-1", 1), *_factors(-value)] if value < 0 else [*_factors(value)]
    if len(base.top) == 1 and base.bottom is _ONE:
        ((monomial, value),) = base.top.items()
        if value == 1 and len(monomial) == 1 and monomial[0][1] == 1:
            return [monomial[0]]
    return [(f"({key(base)})", 1)]


_LEAVES: Final[dict[str, Callable[[Any], Form]]] = {
    "num": _constant, "var": lambda name: _atom("v:" + name), "const": lambda name: _atom("c:" + name),
}  # fmt: skip
_OPERATIONS: Final = {
    "add": _Normaliser.add, "mul": _Normaliser.multiply, "pow": _Normaliser.power, "root": _Normaliser.root,
}  # fmt: skip
