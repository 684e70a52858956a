"""Sequences and plane figures."""

from __future__ import annotations

import random
from math import isqrt

from ..language import abstract, story
from ..values import LIMIT, running_sum, times
from .base import EASY, HARD, MEDIUM, Drawn, Family, Numbers


def term_value(v: Numbers) -> int:
    return v["a"] + (v["n"] - 1) * v["d"]


def term_formula(v: Numbers) -> list[str]:
    steps = v["n"] - 1
    return [
        f"there are {v['n']} - 1 = {steps} steps",
        times(steps, v["d"]),
        f"{v['a']} + {steps * v['d']} = {term_value(v)}",
    ]


def term_listing(v: Numbers) -> list[str]:
    if v["n"] > 9:
        return term_from_zero(v)
    terms = [v["a"] + i * v["d"] for i in range(v["n"])]
    return [f"the terms are {', '.join(map(str, terms))}", f"number {v['n']} is {terms[-1]}"]


def term_from_zero(v: Numbers) -> list[str]:
    """Compute d * n plus the offset of the sequence."""
    gap = v["a"] - v["d"]
    return [
        f"the term before the first would be {v['a']} - {v['d']} = {gap}",
        times(v["n"], v["d"]),
        f"{v['n'] * v['d']} {'+' if gap >= 0 else '-'} {abs(gap)} = {term_value(v)}",
    ]


def draw_sequence(rng: random.Random, level: int) -> Drawn:
    return {
        "a": rng.randint(2, (9, 15, 30)[level]),
        "d": rng.randint(2, (4, 9, 12)[level]),
        "n": rng.randint(4, (5, 12, 20)[level]),
    }


TERM = Family(
    name="sequence_term",
    templates=(
        abstract(
            "the term number {n}",
            "[An arithmetic|A] sequence starts with {a} and grows by {d} from term to term.",
        ),
        abstract(
            "the term in position {n} of the arithmetic sequence with first term {a} and common difference {d}"
        ),
        story(
            "{N} saves {a} dollars in the first week and {d} dollars more in each week than in the one before.",
            "How many dollars does {N} save in week {n}?",
            "the number of dollars that {N} saves in week {n}",
        ),
        story(
            "The first row of a [theatre|stadium|hall] has {a} seats, and each row has {d} seats more than the row before. "
            "{N} looks at the plan.",
            "How many seats does row {n} have?",
            "the number of seats in row {n}",
        ),
        story(
            "{N} reads {a} pages on day 1 and on every next day {d} pages more than on the day before.",
            "How many pages is that on day {n}?",
            "the number of pages on day {n}",
        ),
    ),
    draw=draw_sequence,
    sound=lambda v: v["a"] >= 1 and v["d"] >= 1 and 2 <= v["n"] <= 60,
    answer=term_value,
    routes=(term_formula, term_listing),
    steps=lambda v: 2,
    levels=(EASY, MEDIUM),
)


def series_value(v: Numbers) -> int:
    return v["n"] * (v["a"] + term_value(v)) // 2


def series_formula(v: Numbers) -> list[str]:
    last, n = term_value(v), v["n"]
    both = v["a"] + last
    return [
        f"the last term is {v['a']} + {n - 1} * {v['d']} = {last}",
        f"first plus last is {v['a']} + {last} = {both}",
        times(n, both),
        f"half of it is {n * both} / 2 = {n * both // 2}",
    ]


def series_listing(v: Numbers) -> list[str]:
    terms = [v["a"] + i * v["d"] for i in range(v["n"])]
    if v["n"] > 6:
        return series_split(v)
    return [f"the terms are {', '.join(map(str, terms))}", f"the sum is {running_sum(terms)}"]


def series_split(v: Numbers) -> list[str]:
    """Add n times the first term and d times 1 + 2 + ... + (n - 1)."""
    n, inner = v["n"], v["n"] * (v["n"] - 1) // 2
    return [
        f"the first terms alone give {times(n, v['a'])}",
        f"1 + 2 + ... + {n - 1} = {n} * {n - 1} / 2 = {inner}",
        f"the growth gives {times(inner, v['d'])}",
        f"{n * v['a']} + {inner * v['d']} = {series_value(v)}",
    ]


SERIES = Family(
    name="sequence_sum",
    templates=(
        abstract(
            "the sum of the first {n} terms",
            "[An arithmetic|A] sequence starts with {a} and grows by {d} from term to term.",
        ),
        abstract(
            "the sum of the first {n} terms of the arithmetic sequence with first term {a} and common difference {d}"
        ),
        story(
            "{N} saves {a} dollars in the first week and {d} dollars more in each week than in the one before.",
            "How many dollars does {N} save in {n} weeks together?",
            "the number of dollars saved in {n} weeks together",
        ),
        story(
            "A [tower|pile|stack] of {n} layers has {a} {T} in the top layer and {d} more in each layer below.",
            "How many {T} are there in all layers?",
            "the number of {T} in all layers",
        ),
        story(
            "{N} runs {a} laps on day 1 and on every next day {d} laps more than on the day before, for {n} days.",
            "How many laps is that in total?",
            "the total number of laps",
        ),
    ),
    draw=lambda rng, level: {**draw_sequence(rng, level), "n": rng.randint(3, (4, 6, 12)[level])},
    sound=lambda v: v["a"] >= 1 and v["d"] >= 1 and 2 <= v["n"] <= 60 and series_value(v) < LIMIT,
    answer=series_value,
    routes=(series_formula, series_listing),
    steps=lambda v: 4,
    levels=(MEDIUM, HARD),
)


def geometric_value(v: Numbers) -> int:
    return v["a"] * v["r"] ** (v["n"] - 1)


def geometric_steps(v: Numbers) -> list[str]:
    value, shown = v["a"], []
    for _ in range(v["n"] - 1):
        shown.append(times(value, v["r"]))
        value *= v["r"]
    return shown


def geometric_power(v: Numbers) -> list[str]:
    r, exponent = v["r"], v["n"] - 1
    shown, power = [], r
    for e in range(2, exponent + 1):
        shown.append(f"{r}^{e} = {power * r}")
        power *= r
    return [*shown, times(v["a"], power)]


GEOMETRIC = Family(
    name="geometric_term",
    templates=(
        abstract(
            "the term number {n}",
            "A sequence starts with {a}, and each [next|later|following] term is {r} times the one before.",
        ),
        abstract("the term in position {n} of the geometric sequence with first term {a} and ratio {r}"),
        story(
            "{N} sees {a} [ants|bees|flies] on day 1, and every day there are {r} times as many as the day before.",
            "How many are there on day {n}?",
            "their number on day {n}",
        ),
        story(
            "On the first field of a board {N} puts {a} {T}, on every next field {r} times as many "
            "as on the one before.",
            "How many {T} are on field {n}?",
            "the number of {T} on field {n}",
        ),
    ),
    draw=lambda rng, level: {
        "a": rng.randint(2, (4, 12, 15)[level]),
        "r": rng.randint(2, 5),
        "n": rng.randint(3, (3, 4, 6)[level]),
    },
    sound=lambda v: v["a"] >= 1 and v["r"] >= 2 and 2 <= v["n"] <= 10 and geometric_value(v) < LIMIT,
    answer=geometric_value,
    routes=(geometric_steps, geometric_power),
    steps=lambda v: v["n"] - 1,
    levels=(MEDIUM, HARD),
)


def rectangle_value(v: Numbers) -> int:
    return v["w"] * (v["p"] // 2 - v["w"])


def rectangle_half(v: Numbers) -> list[str]:
    half = v["p"] // 2
    return [
        f"half of the perimeter is {v['p']} / 2 = {half}",
        f"the other side is {half} - {v['w']} = {half - v['w']}",
        times(v["w"], half - v["w"]),
    ]


def rectangle_sides(v: Numbers) -> list[str]:
    rest = v["p"] - 2 * v["w"]
    return [
        f"two sides take 2 * {v['w']} = {2 * v['w']}",
        f"the other two take {v['p']} - {2 * v['w']} = {rest}",
        f"each of them is {rest} / 2 = {rest // 2}",
        times(v["w"], rest // 2),
    ]


def draw_rectangle(rng: random.Random, level: int) -> Drawn:
    w, other = rng.randint(2, (6, 12, 25)[level]), rng.randint(2, (8, 15, 40)[level])
    return {"w": w, "p": 2 * (w + other)}


RECTANGLE = Family(
    name="rectangle_area",
    templates=(
        abstract("the area of a rectangle with perimeter {p} and one side {w}"),
        abstract(
            "its area",
            "[The perimeter of a rectangle|A rectangle's perimeter] is {p}, and one of its sides is {w}.",
        ),
        story(
            "{N} uses {p} feet of fence for a rectangular [garden|yard|field] that is {w} feet wide.",
            "What is its area in square feet?",
            "its area in square feet",
        ),
        story(
            "A rectangular [picture|mirror|window] of {N} is {w} inches high, and its frame is {p} "
            "inches long all around.",
            "What is its area in square inches?",
            "its area in square inches",
        ),
        story(
            "{N} walks {p} metres once around a rectangular [square|pool|court] that is {w} metres wide.",
            "What is its area in square metres?",
            "its area in square metres",
        ),
    ),
    draw=draw_rectangle,
    sound=lambda v: v["w"] >= 1 and v["p"] % 2 == 0 and v["p"] > 2 * v["w"],
    answer=rectangle_value,
    routes=(rectangle_half, rectangle_sides),
    steps=lambda v: 3,
    levels=(MEDIUM, HARD),
)


def triangle_value(v: Numbers) -> int:
    return v["b"] * v["h"] // 2


def triangle_product(v: Numbers) -> list[str]:
    product = v["b"] * v["h"]
    return [times(v["b"], v["h"]), f"half of it is {product} / 2 = {product // 2}"]


def triangle_halved(v: Numbers) -> list[str]:
    even, other = (v["b"], v["h"]) if v["b"] % 2 == 0 else (v["h"], v["b"])
    return [f"half of {even} is {even // 2}", times(even // 2, other)]


TRIANGLE = Family(
    name="triangle_area",
    templates=(
        abstract("the area of a triangle with base {b} and height {h}"),
        abstract("its area", "A triangle has [a base of|the base] {b} and [a height of|the height] {h}."),
        story(
            "{N} [sews|paints|prints] a triangular flag with a base of {b} inches and a height of {h} inches.",
            "What is its area in square inches?",
            "its area in square inches",
        ),
        story(
            "The triangular [field|park|roof] of {N} is {b} metres long at the base and {h} metres high.",
            "What is its area in square metres?",
            "its area in square metres",
        ),
    ),
    draw=lambda rng, level: {
        "b": rng.randint(2, (10, 20, 40)[level]),
        "h": rng.randint(2, (8, 20, 40)[level]),
    },
    sound=lambda v: min(v["b"], v["h"]) >= 1 and v["b"] * v["h"] % 2 == 0,
    answer=triangle_value,
    routes=(triangle_product, triangle_halved),
    steps=lambda v: 2,
    levels=(EASY, MEDIUM),
)

TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29), (9, 40, 41))


def hypotenuse(v: Numbers) -> int:
    return isqrt(v["a"] ** 2 + v["b"] ** 2)


def pythagoras(v: Numbers) -> list[str]:
    a, b = v["a"] ** 2, v["b"] ** 2
    root = f"the square root of {a + b} is {hypotenuse(v)}"
    return [times(v["a"], v["a"]), times(v["b"], v["b"]), f"{a} + {b} = {a + b}", root]


def known_triple(v: Numbers) -> list[str]:
    """Recognise the multiple of a known triple."""
    for first, second, third in TRIPLES:
        k = min(v["a"], v["b"]) // first
        if sorted((v["a"], v["b"])) == [k * first, k * second]:
            head = f"{min(v['a'], v['b'])} = {k} * {first} and {max(v['a'], v['b'])} = {k} * {second}"
            return [head, f"the triple {first}, {second}, {third} gives {times(k, third)}"]
    return pythagoras(v)


def draw_right(rng: random.Random, level: int) -> Drawn:
    first, second, _ = rng.choice(TRIPLES[: (1, 3, 6)[level]])
    k = rng.randint(1, max(1, (4, 60, 90)[level] // second))
    legs = [k * first, k * second]
    rng.shuffle(legs)
    return {"a": legs[0], "b": legs[1]}


RIGHT = Family(
    name="right_triangle",
    templates=(
        abstract(
            "the [hypotenuse|longest side] of a [right|right-angled] triangle with [legs|short sides|smaller sides] "
            "{a} and {b}"
        ),
        abstract(
            "its diagonal", "A rectangle [has the sides|has side lengths|is given by its sides] {a} and {b}."
        ),
        story(
            "{N} [walks|sails|drives|cycles] {a} miles east and then {b} miles north.",
            "How many miles is {N} away from the start?",
            "the straight distance of {N} from the start in miles",
        ),
        story(
            "A [ladder|beam|cable] of {N} reaches {b} feet up a wall and stands {a} feet away from it.",
            "How many feet long is it?",
            "its length in feet",
        ),
        story(
            "A [screen|door|carpet] is {a} inches by {b} inches large. {N} measures its diagonal.",
            "How many inches is that?",
            "the diagonal in inches",
        ),
    ),
    draw=draw_right,
    sound=lambda v: min(v["a"], v["b"]) >= 1 and hypotenuse(v) ** 2 == v["a"] ** 2 + v["b"] ** 2,
    answer=hypotenuse,
    routes=(pythagoras, known_triple),
    steps=lambda v: 3,
    levels=(MEDIUM, HARD),
)

FAMILIES = (TERM, SERIES, GEOMETRIC, RECTANGLE, TRIANGLE, RIGHT)
