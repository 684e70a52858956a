"""Counting: independent choices, pairs and ordered selections."""

from __future__ import annotations

from math import factorial

from ..language import abstract, story
from ..values import LIMIT, running_sum, times
from .base import EASY, HARD, MEDIUM, Family, Numbers


def outfit_steps(v: Numbers) -> list[str]:
    first = v["a"] * v["b"]
    return [times(v["a"], v["b"]), times(first, v["c"])]


def outfit_other(v: Numbers) -> list[str]:
    first = v["b"] * v["c"]
    return [f"the last two allow {times(v['b'], v['c'])} choices", times(v["a"], first)]


OUTFITS = Family(
    name="choices",
    templates=(
        abstract("the number of triples (r, s, t) with {a} choices for r, {b} for s and {c} for t"),
        abstract(
            "the number of codes",
            "[A code has|Codes have] three signs: {a} are allowed first, {b} second and {c} third.",
        ),
        story(
            "{N} owns {a} shirts, {b} pairs of trousers and {c} hats.",
            "How many different outfits are possible?",
            "the number of possible outfits",
        ),
        story(
            "A [cafe|canteen|kitchen] offers {a} soups, {b} main dishes and {c} desserts.",
            "How many different menus can {N} order?",
            "the number of different menus for {N}",
        ),
        story(
            "From the [village|camp|hut] {a} paths lead to the bridge, {b} from there to the lake "
            "and {c} from there to the top.",
            "In how many ways can {N} walk to the top?",
            "the number of ways for {N} to walk to the top",
        ),
    ),
    draw=lambda rng, level: {name: rng.randint(2, (4, 8, 15)[level]) for name in "abc"},
    sound=lambda v: min(v["a"], v["b"], v["c"]) >= 1,
    answer=lambda v: v["a"] * v["b"] * v["c"],
    routes=(outfit_steps, outfit_other),
    steps=lambda v: 2,
    levels=(EASY, MEDIUM),
)


def handshake_value(v: Numbers) -> int:
    return v["n"] * (v["n"] - 1) // 2


def handshake_formula(v: Numbers) -> list[str]:
    n, product = v["n"], v["n"] * (v["n"] - 1)
    return [
        f"each of the {n} meets {n} - 1 = {n - 1} others",
        times(n, n - 1),
        f"each pair is counted twice: {product} / 2 = {product // 2}",
    ]


def handshake_sum(v: Numbers) -> list[str]:
    n = v["n"]
    if n > 7:
        half, other = (n // 2, n - 1) if n % 2 == 0 else ((n - 1) // 2, n)
        return [f"the sum is 1 + 2 + ... + {n - 1}", f"this is {times(half, other)}"]
    return [f"the sum is {running_sum(list(range(n - 1, 0, -1)))}"]


HANDSHAKES = Family(
    name="handshakes",
    templates=(
        abstract("the number of ways to choose 2 of {n} [different|numbered|distinct] {T}"),
        abstract(
            "the number of segments",
            "Any two of {n} points on a [circle|curve|sphere|parabola|hyperbola] are [joined|connected] by a segment.",
            "How many segments are there?",
        ),
        story(
            "{N} [invites|welcomes|greets] {n} people, and each of these people shakes hands with "
            "every other one of them once.",
            "How many handshakes are there?",
            "the number of handshakes",
        ),
        story(
            "In a [chess|tennis|table tennis] club of {N}, {n} players meet, and each plays one game "
            "against every other one.",
            "How many games are played?",
            "the number of games",
        ),
        story(
            "{N} wants to choose two of {n} different {T} as a present.",
            "In how many ways is this possible?",
            "the number of ways to choose the present",
        ),
    ),
    draw=lambda rng, level: {"n": rng.randint(4, (7, 20, 40)[level])},
    sound=lambda v: 2 <= v["n"] <= 60,
    answer=handshake_value,
    routes=(handshake_formula, handshake_sum),
    steps=lambda v: 3,
    levels=(MEDIUM, HARD),
)


def arrangement_value(v: Numbers) -> int:
    return factorial(v["n"]) // factorial(v["n"] - v["k"])


def arrangement_down(v: Numbers) -> list[str]:
    value, shown = v["n"], [f"there are {v['n']} choices for the first place"]
    for i in range(1, v["k"]):
        shown.append(times(value, v["n"] - i))
        value *= v["n"] - i
    return shown


def arrangement_up(v: Numbers) -> list[str]:
    factors = list(range(v["n"] - v["k"] + 1, v["n"] + 1))
    value, shown = factors[0], [f"the factors are {', '.join(map(str, factors))}"]
    for factor in factors[1:]:
        shown.append(times(value, factor))
        value *= factor
    return shown


ARRANGEMENTS = Family(
    name="arrangements",
    templates=(
        abstract("the number of ordered [selections|choices|lists] of {k} out of {n} different {T}"),
        abstract(
            "the number of [words|codes|names|strings] with {k} different letters from [an alphabet|a set|a list] "
            "of {n} letters"
        ),
        story(
            "{n} runners take part in a race, and the first {k} places are written down by {N}.",
            "How many lists are possible?",
            "the number of possible lists",
        ),
        story(
            "{N} puts {k} of {n} different {T} in a row.",
            "In how many ways can this be done?",
            "the number of ways to make the row",
        ),
        story(
            "{N} leads a [club|team|class] with {n} members and gives {k} different jobs to {k} different members.",
            "In how many ways can this be done?",
            "the number of ways to give the jobs",
        ),
    ),
    draw=lambda rng, level: {"n": rng.randint(3, (5, 10, 14)[level]), "k": rng.randint(2, (2, 3, 4)[level])},
    sound=lambda v: 2 <= v["k"] <= min(v["n"], 6) and v["n"] <= 40 and arrangement_value(v) < LIMIT,
    answer=arrangement_value,
    routes=(arrangement_down, arrangement_up),
    steps=lambda v: v["k"],
    levels=(MEDIUM, HARD),
)

FAMILIES = (OUTFITS, HANDSHAKES, ARRANGEMENTS)
