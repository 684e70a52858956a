"""Linear inequalities and algebraic expressions."""

from __future__ import annotations

import random

from ..language import CODES, COMPARISONS, abstract, story
from ..values import Interval, Polynomial, canonical, polynomial_text, sign
from .base import EASY, HARD, MEDIUM, Drawn, Family, Numbers

SYMBOLS = {CODES[symbol]: symbol for symbol in COMPARISONS}
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def half_line(bound: int, symbol: str) -> Interval:
    """Return the x with ``x symbol bound``."""
    if symbol.startswith("<"):
        return Interval(low=None, high=bound, high_closed=symbol == "<=")
    return Interval(low=bound, high=None, low_closed=symbol == ">=")


def inequality_bound(v: Numbers) -> int:
    return (v["c"] - v["O"] * v["b"]) // v["a"]


def inequality_answer(v: Numbers) -> Interval:
    return half_line(inequality_bound(v), SYMBOLS[v["C"]])


def inequality_undo(v: Numbers) -> list[str]:
    symbol, rest, bound = SYMBOLS[v["C"]], v["c"] - v["O"] * v["b"], inequality_bound(v)
    return [
        f"{v['a']}x {symbol} {v['c']} {sign(-v['O'])} {v['b']} = {rest}",
        f"dividing by {v['a']} gives x {symbol} {bound}, that is {canonical(inequality_answer(v))}",
    ]


def inequality_border(v: Numbers) -> list[str]:
    symbol, rest, bound = SYMBOLS[v["C"]], v["c"] - v["O"] * v["b"], inequality_bound(v)
    side = "below" if symbol.startswith("<") else "above"
    end = "belongs to it" if symbol.endswith("=") else "does not belong to it"
    return [
        f"both sides are equal when {v['a']}x = {rest}, at x = {rest} / {v['a']} = {bound}",
        f"the solutions lie {side} {bound}, and {bound} {end}: {canonical(inequality_answer(v))}",
    ]


def draw_inequality(rng: random.Random, level: int) -> Drawn:
    a, x, b = (
        rng.randint(2, (3, 6, 9)[level]),
        rng.randint(2, (5, 10, 20)[level]),
        rng.randint(1, (6, 15, 30)[level]),
    )
    operator = rng.choice("+-")
    c = a * x + (b if operator == "+" else -b)
    return {"a": a, "O": operator, "b": b, "C": rng.choice(COMPARISONS), "c": c}


INEQUALITY = Family(
    name="inequality",
    templates=(
        abstract("the solution set of {a}x {O} {b} {C} {c} as an interval"),
        abstract(
            "the interval of all possible x",
            "[A real number x satisfies|For a real number x we know] {a}x {O} {b} {C} {c}.",
        ),
        abstract("the interval of all real x with {a}x {O} {b} {C} {c}"),
        story(
            "The balance of a game is {a}x {O} {b} for a player at level x, and {N} needs it to be {C} {c}.",
            "Which real levels x are allowed, as an interval?",
            "the interval of the allowed levels x",
        ),
        story(
            "A machine turns a dial setting x into the pressure {a}x {O} {b}. The pressure must be {C} {c}.",
            "Which settings x are safe, as an interval?",
            "the interval of the safe settings x",
        ),
    ),
    draw=draw_inequality,
    sound=lambda v: v["a"] >= 2 and v["b"] >= 1 and v["c"] >= 1 and (v["c"] - v["O"] * v["b"]) % v["a"] == 0,
    answer=inequality_answer,
    routes=(inequality_undo, inequality_border),
    steps=lambda v: 2,
    levels=(MEDIUM, HARD),
)


def double_answer(v: Numbers) -> Interval:
    return Interval(
        low=v["l"] - v["b"],
        high=v["u"] - v["b"],
        low_closed=SYMBOLS[v["C"]] == "<=",
        high_closed=SYMBOLS[v["D"]] == "<=",
    )


def double_at_once(v: Numbers) -> list[str]:
    answer, left, right = double_answer(v), SYMBOLS[v["C"]], SYMBOLS[v["D"]]
    return [
        f"subtracting {v['b']} everywhere gives {v['l']} - {v['b']} = {answer.low} and {v['u']} - {v['b']} = {answer.high}",
        f"{answer.low} {left} x {right} {answer.high}, that is {canonical(answer)}",
    ]


def double_apart(v: Numbers) -> list[str]:
    answer, left, right = double_answer(v), SYMBOLS[v["C"]], SYMBOLS[v["D"]]
    return [
        f"the left part says x {MIRRORED[left]} {v['l']} - {v['b']} = {answer.low}",
        f"the right part says x {right} {v['u']} - {v['b']} = {answer.high}",
        f"both hold on {canonical(answer)}",
    ]


def draw_double(rng: random.Random, level: int) -> Drawn:
    b, low = rng.randint(1, (8, 20, 40)[level]), rng.randint(1, (6, 15, 40)[level])
    gap = rng.randint(2, (8, 15, 40)[level])
    return {
        "b": b,
        "l": low + b,
        "u": low + b + gap,
        "C": rng.choice(("<", "<=")),
        "D": rng.choice(("<", "<=")),
    }


def upward(v: Numbers) -> bool:
    return v["C"] in (0, 1) and v["D"] in (0, 1)


DOUBLE = Family(
    name="double_inequality",
    templates=(
        abstract("the solution set of {l} {C} x + {b} {D} {u} as an interval"),
        abstract(
            "the interval of all possible x",
            "[A real number x satisfies|For a real number x we know] {l} {C} x + {b} {D} {u}.",
        ),
        story(
            "{N} adds {b} grams of salt to x grams of flour. The total t must satisfy {l} {C} t {D} {u}.",
            "Which amounts x are allowed, as an interval?",
            "the interval of the allowed amounts x",
        ),
        story(
            "The room of {N} is x degrees warm and the heater adds {b} degrees. The new temperature "
            "t must satisfy {l} {C} t {D} {u}.",
            "Which values of x are fine, as an interval?",
            "the interval of the fine values of x",
        ),
    ),
    draw=draw_double,
    sound=lambda v: upward(v) and v["b"] >= 1 and v["b"] <= v["l"] < v["u"],
    answer=double_answer,
    routes=(double_at_once, double_apart),
    steps=lambda v: 2,
    levels=(EASY, MEDIUM),
)


def expand_answer(v: Numbers) -> Polynomial:
    a, b = v["a"], v["O"] * v["b"]
    return Polynomial(square=1, linear=a + b, constant=a * b)


def expand_terms(v: Numbers) -> list[str]:
    a, b = v["a"], v["O"] * v["b"]
    return [
        f"x * x = x^2 and {a} * {abs(b)} = {abs(a * b)}",
        f"the terms with x are {a}x {sign(b)} {abs(b)}x = {term(a + b)}",
        f"together this is {polynomial_text(expand_answer(v))}",
    ]


def expand_rows(v: Numbers) -> list[str]:
    a, b = v["a"], v["O"] * v["b"]
    inner = f"(x {sign(b)} {abs(b)})"
    rows = f"x^2 {sign(b)} {abs(b)}x + {a}x {sign(b)} {abs(a * b)}"
    return [
        f"x{inner} + {a}{inner} = {rows}",
        f"collecting the terms with x gives {polynomial_text(expand_answer(v))}",
    ]


def term(coefficient: int) -> str:
    return polynomial_text(Polynomial(square=0, linear=coefficient, constant=0))


EXPAND = Family(
    name="expand",
    templates=(
        abstract("the expanded form of (x + {a})(x {O} {b})"),
        abstract("(x + {a})(x {O} {b}) as a polynomial in x"),
        abstract(
            "the polynomial", "[Multiply out|Expand] (x + {a})(x {O} {b}).", "Which polynomial in x results?"
        ),
        story(
            "A square garden with side x is made {a} metres longer and {b} metres wider by {N}.",
            "What is its new area as an expanded polynomial in x?",
            "the new area as an expanded polynomial in x",
            O="+",
        ),
        story(
            "{N} makes a square sheet with side x longer by {a} inches and narrower by {b} inches.",
            "What is its new area as an expanded polynomial in x?",
            "the new area as an expanded polynomial in x",
            O="-",
        ),
    ),
    draw=lambda rng, level: {
        "a": rng.randint(1, (4, 12, 18)[level]),
        "O": rng.choice("+-"),
        "b": rng.randint(1, (4, 12, 18)[level]),
    },
    sound=lambda v: v["a"] >= 1 and v["b"] >= 1,
    answer=expand_answer,
    routes=(expand_terms, expand_rows),
    steps=lambda v: 3,
    levels=(MEDIUM, HARD),
)


def collect_answer(v: Numbers) -> Polynomial:
    return Polynomial(square=0, linear=v["a"] + v["e"], constant=v["b"] + v["d"])


def collect_apart(v: Numbers) -> list[str]:
    return [
        f"{v['a']}x + {v['e']}x = {v['a'] + v['e']}x",
        f"{v['b']} + {v['d']} = {v['b'] + v['d']}",
        f"together this is {polynomial_text(collect_answer(v))}",
    ]


def collect_ordered(v: Numbers) -> list[str]:
    ordered = f"{v['a']}x + {v['e']}x + {v['b']} + {v['d']}"
    return [f"in another order this is {ordered} = {polynomial_text(collect_answer(v))}"]


COLLECT = Family(
    name="collect_terms",
    templates=(
        abstract("the simplified form of {a}x + {b} + {e}x + {d}"),
        abstract("the sum of {a}x + {b} and {e}x + {d}"),
        story(
            "One box holds x {T}. {N} has {a} boxes and {b} loose {T}, and {M} has {e} boxes and {d} loose {T}.",
            "How many {T} do they have together, in terms of x?",
            "the number of their {T} in terms of x",
        ),
        story(
            "A ticket costs x dollars. {N} buys {a} tickets and a meal for {b} dollars, {M} buys {e} tickets and a meal for "
            "{d} dollars.",
            "How many dollars do they pay together, in terms of x?",
            "their payment in dollars in terms of x",
        ),
    ),
    draw=lambda rng, level: {name: rng.randint(2, (7, 12, 30)[level]) for name in "abed"},
    sound=lambda v: min(v["a"], v["b"], v["e"], v["d"]) >= 1,
    answer=collect_answer,
    routes=(collect_apart, collect_ordered),
    steps=lambda v: 2,
    levels=(EASY, MEDIUM),
)

FAMILIES = (INEQUALITY, DOUBLE, EXPAND, COLLECT)
