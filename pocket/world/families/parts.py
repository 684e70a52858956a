"""Fractions and percentages."""

from __future__ import annotations

import random
from fractions import Fraction
from math import gcd

from ..language import abstract, story
from ..values import LIMIT, reduced_forms, running_sum, sign, times, whole
from .base import EASY, HARD, MEDIUM, Drawn, Family, Numbers


def two_fractions(v: Numbers) -> tuple[Fraction, Fraction]:
    return Fraction(v["a"], v["b"]), v["O"] * Fraction(v["c"], v["d"])


def fraction_lcm(v: Numbers) -> list[str]:
    a, b, c, d = v["a"], v["b"], v["c"], v["d"]
    bottom = b * d // gcd(b, d)
    top, change = a * bottom // b, c * bottom // d
    joined = [
        f"{top}/{bottom} {sign(v['O'])} {change}/{bottom}",
        *reduced_forms(top + v["O"] * change, bottom),
    ]
    if b == d:
        return [f"both have the denominator {b}", " = ".join(joined)]
    shown = [f"a common denominator is {bottom}"]
    if b != bottom:
        shown.append(f"{a}/{b} = {top}/{bottom}")
    if d != bottom:
        shown.append(f"{c}/{d} = {change}/{bottom}")
    return [*shown, " = ".join(joined)]


def fraction_cross(v: Numbers) -> list[str]:
    """Cross-multiply and reduce at the end."""
    a, b, c, d = v["a"], v["b"], v["c"], v["d"]
    if b == d:
        top = a + v["O"] * c
        return [f"{a} {sign(v['O'])} {c} = {top}", f"the result is {' = '.join(reduced_forms(top, b))}"]
    top, bottom = a * d + v["O"] * c * b, b * d
    return [
        f"{a} * {d} = {a * d} and {c} * {b} = {c * b}",
        f"the top is {a * d} {sign(v['O'])} {c * b} = {top}",
        f"the bottom is {times(b, d)}",
        " = ".join(reduced_forms(top, bottom)) if gcd(top, bottom) > 1 else f"the fraction is {top}/{bottom}",
    ]


def draw_fractions(rng: random.Random, level: int) -> Drawn:
    b = rng.randint(2, (6, 10, 15)[level])
    d = b * rng.randint(2, 3) if level == EASY else rng.randint(2, (12, 10, 15)[level])
    return {"a": rng.randint(1, b - 1), "b": b, "O": rng.choice("+-"), "c": rng.randint(1, d - 1), "d": d}


def fractions_sound(v: Numbers) -> bool:
    if min(v["a"], v["c"]) < 1 or min(v["b"], v["d"]) < 2:
        return False
    if gcd(v["a"], v["b"]) > 1 and v["b"] != v["d"]:
        return False
    left, right = two_fractions(v)
    return left + right > 0 and left < 1 and abs(right) < 1 and v["b"] * v["d"] < LIMIT


FRACTIONS = Family(
    name="fractions",
    templates=(
        abstract("{a}/{b} {O} {c}/{d}"),
        abstract("the sum of {a}/{b} and {c}/{d}", O="+"),
        abstract("the difference {a}/{b} minus {c}/{d}", O="-"),
        story(
            "{N} eats {a}/{b} of a [cake|pizza|pie] and {M} eats {c}/{d} of another one of the same size.",
            "How much do they eat together, as a fraction of one?",
            "the fraction that they eat together",
            O="+",
        ),
        story(
            "A [tank|barrel|jug] is filled to {a}/{b}. Then {c}/{d} of its full volume is used by {N}.",
            "What fraction is still filled?",
            "the fraction that is still filled",
            O="-",
        ),
        story(
            "{N} [walks|runs|cycles] {a}/{b} of a mile in the morning and {c}/{d} of a mile in the evening.",
            "How many miles is that in all?",
            "the number of miles in all",
            O="+",
        ),
        story(
            "{N} has {a}/{b} of a yard of [ribbon|cloth|wire] and cuts off {c}/{d} of a yard.",
            "How many yards are left?",
            "the number of yards that are left",
            O="-",
        ),
    ),
    draw=draw_fractions,
    sound=fractions_sound,
    answer=lambda v: whole(sum(two_fractions(v))),
    routes=(fraction_lcm, fraction_cross),
    steps=lambda v: 1 if v["b"] == v["d"] else 3,
    levels=(EASY, MEDIUM, HARD),
)


def part_answer(v: Numbers) -> int:
    return v["n"] * v["a"] // v["b"]


def part_divide(v: Numbers) -> list[str]:
    one = v["n"] // v["b"]
    return [f"one part is {v['n']} / {v['b']} = {one}", times(v["a"], one)]


def part_rest(v: Numbers) -> list[str]:
    """Subtract the parts that are not asked for."""
    one, others = v["n"] // v["b"], v["b"] - v["a"]
    return [
        f"one of {v['b']} parts is {v['n']} / {v['b']} = {one}",
        f"the other {others} parts are {times(others, one)}",
        f"{v['n']} - {others * one} = {v['n'] - others * one}",
    ]


def draw_part(rng: random.Random, level: int) -> Drawn:
    b = rng.randint(3, (5, 9, 12)[level])
    a = rng.choice([a for a in range(2, b) if gcd(a, b) == 1])
    return {"a": a, "b": b, "n": b * rng.randint(2, (5, 15, 40)[level])}


PART = Family(
    name="fraction_of",
    templates=(
        abstract("{a}/{b} of {n}"),
        abstract("{a}/{b} times {n}"),
        story(
            "{N} has {n} {T}, and {a}/{b} of them are [red|blue|new|old].",
            "How many {T} is that?",
            "the number of these {T}",
        ),
        story(
            "The [school|firm|village] of {N} has {n} people, and {a}/{b} of them come by bike.",
            "How many people come by bike?",
            "the number of people who come by bike",
        ),
        story(
            "A [film|concert|lesson] takes {n} minutes, and {N} has seen {a}/{b} of it.",
            "How many minutes has {N} seen?",
            "the number of minutes that {N} has seen",
        ),
    ),
    draw=draw_part,
    sound=lambda v: 1 <= v["a"] < v["b"] and v["n"] >= 1 and v["n"] % v["b"] == 0,
    answer=part_answer,
    routes=(part_divide, part_rest),
    steps=lambda v: 1 if v["b"] % v["a"] == 0 else 2,
    levels=(EASY, MEDIUM),
)


def percent(k: int, p: int) -> int:
    """Return k percent of p, which is exact in sound problems."""
    return k * p // 100


def ten_percent_steps(k: int, p: int) -> list[str]:
    """Compute via 10 percent (or 1 percent if 10 percent is not an integer)."""
    part = percent(k, p)
    for unit in (10, 5):
        one = p * unit // 100
        if p * unit % 100 == 0 and k % unit == 0:
            more = [f"{k} percent is {times(k // unit, one)}"] if k > unit else []
            return [f"{unit} percent of {p} is {one}", *more]
    return fraction_steps(k, p, part)


def fraction_steps(k: int, p: int, part: int) -> list[str]:
    """Compute via k/100 in lowest terms."""
    share = Fraction(k, 100)
    top, bottom = share.numerator, share.denominator
    shown = [f"{k} percent is {share}"]
    if bottom > 1:
        shown.append(f"{p} / {bottom} = {p // bottom}")
    if top > 1:
        shown.append(times(top, p // bottom))
    return shown


def percent_sound(k: int, p: int) -> bool:
    return 1 <= k <= 100 and p >= 1 and k * p % 100 == 0


def draw_percent(rng: random.Random, level: int) -> Drawn:
    k = rng.choice(
        ((10, 20, 25, 50), (5, 10, 15, 20, 25, 30, 40, 50, 60, 75), tuple(range(5, 100, 5)))[level]
    )
    unit = 100 // gcd(k, 100)
    return {"k": k, "p": unit * rng.randint(1, max(2, (40, 240, 600)[level] // unit))}


PERCENT_OF = Family(
    name="percent_of",
    templates=(
        abstract("{k} percent of {p}"),
        abstract("{k}% of {p}"),
        story(
            "{N} has {p} {T}, and {k} percent of them are [red|blue|broken|new].",
            "How many {T} is that?",
            "the number of these {T}",
        ),
        story(
            "{N} asks {p} [guests|voters|pupils], and {k} percent say yes.",
            "How many say yes?",
            "the number of those who say yes",
        ),
        story(
            "{N} earns {p} dollars and saves {k} percent of it.",
            "How many dollars does {N} save?",
            "the number of dollars that {N} saves",
        ),
    ),
    draw=draw_percent,
    sound=lambda v: percent_sound(v["k"], v["p"]),
    answer=lambda v: percent(v["k"], v["p"]),
    routes=(
        lambda v: ten_percent_steps(v["k"], v["p"]),
        lambda v: fraction_steps(v["k"], v["p"], percent(v["k"], v["p"])),
    ),
    steps=lambda v: 1,
    levels=(),
)


def change_answer(v: Numbers) -> int:
    return v["p"] + v["O"] * percent(v["k"], v["p"])


def change_part(v: Numbers) -> list[str]:
    part = percent(v["k"], v["p"])
    return [*ten_percent_steps(v["k"], v["p"]), running_sum([v["p"], v["O"] * part])]


def change_whole(v: Numbers) -> list[str]:
    """Compute the new value as a percentage of the old one."""
    k = 100 + v["O"] * v["k"]
    return [
        f"100 {sign(v['O'])} {v['k']} = {k} percent of {v['p']} is the new value",
        *fraction_steps(k, v["p"], change_answer(v)),
    ]


PERCENT_CHANGE = Family(
    name="percent_change",
    templates=(
        abstract("{p} increased by {k} percent", O="+"),
        abstract("{p} decreased by {k} percent", O="-"),
        abstract("the new number", "The number {p} [grows|is raised|is enlarged] by {k} percent.", O="+"),
        abstract("the new number", "The number {p} [shrinks|is lowered|is reduced] by {k} percent.", O="-"),
        story(
            "A [coat|bike|lamp] costs {p} dollars. {N} gets a discount of {k} percent.",
            "How many dollars does {N} pay?",
            "the number of dollars that {N} pays",
            O="-",
        ),
        story(
            "The [tree|tower|plant] of {N} is {p} inches tall and becomes {k} percent taller.",
            "How many inches tall is it then?",
            "its new height in inches",
            O="+",
        ),
        story(
            "The [choir|school|club] of {N} has {p} members and grows by {k} percent.",
            "How many members does it have then?",
            "the number of members that it has then",
            O="+",
        ),
        story(
            "The [pond|tank|pool] of {N} holds {p} litres and loses {k} percent of them in the sun.",
            "How many litres does it still hold?",
            "the number of litres that it still holds",
            O="-",
        ),
    ),
    draw=lambda rng, level: {**draw_percent(rng, level), "O": rng.choice("+-")},
    sound=lambda v: percent_sound(v["k"], v["p"]) and (v["O"] > 0 or v["k"] < 100),
    answer=change_answer,
    routes=(change_part, change_whole),
    steps=lambda v: 2,
    levels=(EASY, MEDIUM, HARD),
)


def twice_answer(v: Numbers) -> int:
    middle = v["p"] + percent(v["k"], v["p"])
    return middle - percent(v["j"], middle)


def twice_sound(v: Numbers) -> bool:
    return (
        percent_sound(v["k"], v["p"])
        and v["j"] < 100
        and percent_sound(v["j"], v["p"] + percent(v["k"], v["p"]))
    )


def twice_parts(v: Numbers) -> list[str]:
    first = percent(v["k"], v["p"])
    middle = v["p"] + first
    return [
        *ten_percent_steps(v["k"], v["p"]),
        f"{v['p']} + {first} = {middle}",
        *ten_percent_steps(v["j"], middle),
        f"{middle} - {percent(v['j'], middle)} = {twice_answer(v)}",
    ]


def twice_whole(v: Numbers) -> list[str]:
    first = percent(v["k"], v["p"])
    middle = v["p"] + first
    keep = 100 - v["j"]
    return [
        *fraction_steps(v["k"], v["p"], first),
        f"after the rise it is {v['p']} + {first} = {middle}",
        f"100 - {v['j']} = {keep} percent of this remains",
        *fraction_steps(keep, middle, twice_answer(v)),
    ]


PERCENT_TWICE = Family(
    name="percent_twice",
    templates=(
        abstract(
            "the number that results",
            "{p} is increased by {k} percent, and the result is decreased by {j} percent.",
        ),
        abstract(
            "the final number", "First the number {p} grows by {k} percent. Then it shrinks by {j} percent."
        ),
        story(
            "A [ring|phone|desk] costs {p} dollars. {N} raises the price by {k} percent and later lowers the new price by {j} "
            "percent.",
            "What is the final price in dollars?",
            "the final price in dollars",
        ),
        story(
            "The [band|colony|herd] of {N} has {p} members. It grows by {k} percent in one year and "
            "shrinks by {j} percent in the next.",
            "How many members are there in the end?",
            "the number of members in the end",
        ),
        story(
            "{N} has {p} {T} and collects {k} percent more. Then {N} sells {j} percent of all of them.",
            "How many {T} are left?",
            "the number of {T} that are left",
        ),
    ),
    draw=lambda rng, level: {
        "k": rng.choice((10, 20, 25, 30, 40, 50)),
        "j": rng.choice((10, 20, 25, 30, 40, 50)),
        "p": 20 * rng.randint(1, 25),
    },
    sound=twice_sound,
    answer=twice_answer,
    routes=(twice_parts, twice_whole),
    steps=lambda v: 4,
    levels=(HARD,),
)

FAMILIES = (FRACTIONS, PART, PERCENT_OF, PERCENT_CHANGE, PERCENT_TWICE)
