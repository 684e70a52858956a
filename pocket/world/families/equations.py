"""Equations with one unknown, and systems of two equations."""

from __future__ import annotations

import random

from ..language import abstract, story
from ..values import Pair, canonical, sign, times
from .base import EASY, HARD, MEDIUM, Drawn, Family, Numbers


def one_step_answer(v: Numbers) -> int:
    return v["c"] - v["O"] * v["b"]


def one_step_undo(v: Numbers) -> list[str]:
    word = "subtracting" if v["O"] > 0 else "adding"
    answer = one_step_answer(v)
    return [f"{word} {v['b']} on both sides gives x = {v['c']} {sign(-v['O'])} {v['b']} = {answer}"]


def one_step_check(v: Numbers) -> list[str]:
    answer = one_step_answer(v)
    return [
        f"the unknown number is {v['c']} {sign(-v['O'])} {v['b']} = {answer}",
        f"the check {answer} {sign(v['O'])} {v['b']} = {v['c']} holds",
    ]


def draw_one_step(rng: random.Random, level: int) -> Drawn:
    answer, other = rng.randint(2, 18), rng.randint(2, 12)
    operator = rng.choice("+-")
    return {"O": operator, "b": other, "c": answer + other if operator == "+" else answer - other}


ONE_STEP = Family(
    name="one_step_equation",
    templates=(
        abstract("the solution of x {O} {b} = {c}"),
        abstract("the value of x", "[We know that|It is given that|Let x be a number with] x {O} {b} = {c}."),
        story(
            "After getting {b} more {T}, {N} has {c} {T}.",
            "How many {T} did {N} have before?",
            "the number of {T} that {N} had before",
            O="+",
        ),
        story(
            "After [giving away|losing|selling] {b} {T}, {N} has {c} {T} left.",
            "How many {T} did {N} have at first?",
            "the number of {T} that {N} had at first",
            O="-",
        ),
        story(
            "In {b} years {N} will be {c} years old.",
            "How old is {N} now?",
            "the age of {N} now",
            O="+",
        ),
        story(
            "{b} years ago {N} was {c} years old.",
            "How old is {N} now?",
            "the age of {N} now",
            O="-",
        ),
        story(
            "A plant grows {b} inches and is then {c} inches tall in the garden of {N}.",
            "How tall was the plant before, in inches?",
            "the height of the plant before, in inches",
            O="+",
        ),
    ),
    draw=draw_one_step,
    sound=lambda v: v["b"] >= 1 and v["c"] >= 1 and one_step_answer(v) >= 0,
    answer=one_step_answer,
    routes=(one_step_undo, one_step_check),
    steps=lambda v: 1,
    levels=(),
)


def linear_answer(v: Numbers) -> int:
    return (v["c"] - v["O"] * v["b"]) // v["a"]


def linear_undo(v: Numbers) -> list[str]:
    rest = v["c"] - v["O"] * v["b"]
    return [
        f"{v['a']}x = {v['c']} {sign(-v['O'])} {v['b']} = {rest}",
        f"x = {rest} / {v['a']} = {rest // v['a']}",
    ]


def linear_divide(v: Numbers) -> list[str]:
    """Divide first if everything is divisible; otherwise count how often the coefficient fits."""
    a, b, c = v["a"], v["b"], v["c"]
    if b % a == 0 and c % a == 0:
        head = f"dividing everything by {a} gives x {sign(v['O'])} {b // a} = {c // a}"
        return [head, f"x = {c // a} {sign(-v['O'])} {b // a} = {linear_answer(v)}"]
    rest = c - v["O"] * b
    return [
        f"without the {b} there {'remain' if v['O'] > 0 else 'would be'} {c} {sign(-v['O'])} {b} = {rest}",
        f"{a} * {rest // a} = {rest}, and therefore x = {rest // a}",
    ]


def draw_linear(rng: random.Random, level: int) -> Drawn:
    a, x, b = (
        rng.randint(2, (3, 6, 9)[level]),
        rng.randint(2, (5, 12, 20)[level]),
        rng.randint(1, (9, 20, 40)[level]),
    )
    operator = rng.choice("+-")
    return {"a": a, "O": operator, "b": b, "c": a * x + (b if operator == "+" else -b)}


LINEAR = Family(
    name="linear_equation",
    templates=(
        abstract("the solution of {a}x {O} {b} = {c}"),
        abstract(
            "the value of x",
            "[A number x satisfies|We are told that|The number x solves] {a}x {O} {b} = {c}.",
        ),
        abstract(
            "that number",
            "{a} times a number, [plus|increased by] {b}, is {c}.",
            "Which number is it?",
            O="+",
        ),
        story(
            "A taxi costs {b} dollars plus {a} dollars for every mile. {N} pays {c} dollars.",
            "How many miles does {N} ride?",
            "the number of miles that {N} rides",
            O="+",
        ),
        story(
            "{N} buys some boxes with {a} {T} each, [gives away|loses|sells] {b} {T} and has {c} {T} left.",
            "How many boxes did {N} buy?",
            "the number of boxes that {N} bought",
            O="-",
        ),
        story(
            "{N} already has {b} {T} and gets {a} more every day until there are {c} {T}.",
            "How many days does this take?",
            "the number of days that this takes",
            O="+",
        ),
        story(
            "{N} earns {a} dollars an hour, pays {b} dollars for lunch and has {c} dollars at the end.",
            "How many hours does {N} work?",
            "the number of hours that {N} works",
            O="-",
        ),
    ),
    draw=draw_linear,
    sound=lambda v: (
        v["a"] >= 2
        and v["b"] >= 1
        and v["c"] >= 1
        and (v["c"] - v["O"] * v["b"]) % v["a"] == 0
        and linear_answer(v) >= 1
    ),
    answer=linear_answer,
    routes=(linear_undo, linear_divide),
    steps=lambda v: 2,
    levels=(EASY, MEDIUM, HARD),
)


def both_answer(v: Numbers) -> int:
    return (v["d"] - v["b"]) // (v["a"] - v["e"])


def both_left(v: Numbers) -> list[str]:
    a, e, rest = v["a"], v["e"], v["d"] - v["b"]
    gap = a - e
    if gap == 1:
        return [f"{a}x - {e}x = x", f"x = {v['d']} - {v['b']} = {rest}"]
    return [
        f"{a}x - {e}x = {gap}x",
        f"{gap}x = {v['d']} - {v['b']} = {rest}",
        f"x = {rest} / {gap} = {rest // gap}",
    ]


def both_right(v: Numbers) -> list[str]:
    a, e, rest = v["a"], v["e"], v["d"] - v["b"]
    return [
        f"{a}x = {e}x + {v['d']} - {v['b']} = {e}x + {rest}",
        f"without the {e}x on the right it says {multiple(a - e, 'x')} = {rest}",
        f"x = {rest} / {a - e} = {rest // (a - e)}",
    ]


def draw_both(rng: random.Random, level: int) -> Drawn:
    e, gap, x = rng.randint(2, (3, 5, 8)[level]), rng.randint(2, 6), rng.randint(2, (6, 10, 15)[level])
    b = rng.randint(1, 20)
    return {"a": e + gap, "e": e, "b": b, "d": b + gap * x}


BOTH = Family(
    name="linear_both_sides",
    templates=(
        abstract("the solution of {a}x + {b} = {e}x + {d}"),
        abstract(
            "the value of x",
            "[A number x satisfies|We are told that|The number x solves] {a}x + {b} = {e}x + {d}.",
        ),
        story(
            "{N} has {b} {T} and gets {a} a day. {M} has {d} {T} and gets {e} a day.",
            "After how many days do they have equally many?",
            "the number of days until they have equally many",
        ),
        story(
            "One [gym|pool|studio] costs {b} dollars plus {a} dollars a visit, another {d} dollars "
            "plus {e} dollars a visit.",
            "For how many visits do they cost the same?",
            "the number of visits for which they cost the same",
        ),
        story(
            "A [tank|barrel|pool] holds {b} litres and gains {a} litres a minute. A second one holds {d} litres and gains {e} "
            "litres a minute.",
            "After how many minutes do they hold the same?",
            "the number of minutes until they hold the same",
        ),
    ),
    draw=draw_both,
    sound=lambda v: (
        v["a"] > v["e"] >= 2
        and v["b"] >= 1
        and (v["d"] - v["b"]) % (v["a"] - v["e"]) == 0
        and both_answer(v) >= 1
    ),
    answer=both_answer,
    routes=(both_left, both_right),
    steps=lambda v: 3,
    levels=(MEDIUM, HARD),
)


def sum_difference(v: Numbers) -> Pair:
    x = (v["s"] + v["d"]) // 2
    return Pair(first=x, second=v["s"] - x)


def system_adding(v: Numbers) -> list[str]:
    both, total = sum_difference(v), v["s"] + v["d"]
    return [
        f"adding both equations gives 2x = {v['s']} + {v['d']} = {total}",
        f"x = {total} / 2 = {both.first}",
        f"y = {v['s']} - {both.first} = {both.second}, which gives {canonical(both)}",
    ]


def system_substituting(v: Numbers) -> list[str]:
    both, rest = sum_difference(v), v["s"] - v["d"]
    return [
        f"x = y + {v['d']}, and therefore 2y + {v['d']} = {v['s']}",
        f"2y = {v['s']} - {v['d']} = {rest} and y = {both.second}",
        f"x = {both.second} + {v['d']} = {both.first}, which gives {canonical(both)}",
    ]


def draw_sum_difference(rng: random.Random, level: int) -> Drawn:
    y, gap = rng.randint(1, (6, 15, 40)[level]), rng.randint(2, (6, 12, 30)[level])
    return {"s": 2 * y + gap, "d": gap}


SUM_DIFFERENCE = Family(
    name="sum_and_difference",
    templates=(
        abstract("the ordered pair (x, y) with x + y = {s} and x - y = {d}"),
        abstract("the solution (x, y)", "[Consider|Take|We have] the system x + y = {s}, x - y = {d}."),
        abstract(
            "the ordered pair of the larger and the smaller number",
            "Two numbers have the sum {s} and the difference {d}.",
        ),
        story(
            "{N} and {M} have {s} {T} together. {N} has {d} more than {M}.",
            "How many does each have, as an ordered pair?",
            "the ordered pair of the {T} of {N} and {M}",
        ),
        story(
            "{N} cuts a [rope|cable|plank] of {s} feet into two pieces. The first piece is {d} feet "
            "longer than the second.",
            "How long are the pieces, as an ordered pair?",
            "the ordered pair of the lengths of the pieces",
        ),
        story(
            "In a vote with {s} votes {N} beats {M} by {d} votes.",
            "How many votes does each get, as an ordered pair?",
            "the ordered pair of the votes of {N} and {M}",
        ),
    ),
    draw=draw_sum_difference,
    sound=lambda v: v["d"] >= 1 and v["s"] > v["d"] and (v["s"] - v["d"]) % 2 == 0,
    answer=sum_difference,
    routes=(system_adding, system_substituting),
    steps=lambda v: 3,
    levels=(MEDIUM, HARD),
)


def weighted_pair(v: Numbers) -> Pair:
    y = (v["t"] - v["a"] * v["s"]) // (v["b"] - v["a"])
    return Pair(first=v["s"] - y, second=y)


def weighted_eliminate(v: Numbers) -> list[str]:
    a, b, s, t, both = v["a"], v["b"], v["s"], v["t"], weighted_pair(v)
    return [
        f"{a} times the first equation is {a}x + {a}y = {times(a, s).rpartition(' ')[2]}",
        f"{multiple(b - a, 'y')} = {t} - {a * s} = {t - a * s}",
        f"y = {both.second} and x = {s} - {both.second} = {both.first}, which gives {canonical(both)}",
    ]


def weighted_substitute(v: Numbers) -> list[str]:
    a, b, s, t, both = v["a"], v["b"], v["s"], v["t"], weighted_pair(v)
    return [
        f"y = {s} - x, and therefore {a}x + {b * s} - {b}x = {t}",
        f"{multiple(b - a, 'x')} = {b * s} - {t} = {b * s - t}",
        f"x = {both.first} and y = {s} - {both.first} = {both.second}, which gives {canonical(both)}",
    ]


def multiple(count: int, name: str) -> str:
    """Return ``3y``, or ``y`` for a count of one."""
    return name if count == 1 else f"{count}{name}"


def draw_weighted(rng: random.Random, level: int) -> Drawn:
    x, y = rng.randint(1, (4, 9, 15)[level]), rng.randint(1, (4, 9, 15)[level])
    a, gap = rng.randint(2, 4), rng.randint(1, (2, 2, 4)[level])
    return {"a": a, "b": a + gap, "s": x + y, "t": a * x + (a + gap) * y}


def weighted_sound(v: Numbers) -> bool:
    gap = v["b"] - v["a"]
    if not (v["a"] >= 2 and gap >= 1 and (v["t"] - v["a"] * v["s"]) % gap == 0):
        return False
    both = weighted_pair(v)
    return both.first >= 1 and both.second >= 1


WEIGHTED = Family(
    name="system",
    templates=(
        abstract("the ordered pair (x, y) with x + y = {s} and {a}x + {b}y = {t}"),
        abstract("the solution (x, y)", "[Consider|Take|We have] the system x + y = {s}, {a}x + {b}y = {t}."),
        story(
            "{N} buys {s} [tickets|snacks|toys]. Small ones cost {a} dollars and large ones {b} "
            "dollars, {t} dollars in all.",
            "How many small and how many large ones are there, as an ordered pair?",
            "the ordered pair of the numbers of small and large ones",
        ),
        story(
            "In a test with {s} questions, easy ones bring {a} points and hard ones {b} points. All "
            "together bring {t} points.",
            "How many easy and how many hard questions are there, as an ordered pair?",
            "the ordered pair of the numbers of easy and hard questions",
        ),
        story(
            "{N} packs {t} {T} into {s} bags. Some bags hold {a} and the others hold {b}.",
            "How many bags of each kind are there, as an ordered pair?",
            "the ordered pair of the numbers of bags with {a} and with {b} {T}",
        ),
    ),
    draw=draw_weighted,
    sound=weighted_sound,
    answer=weighted_pair,
    routes=(weighted_eliminate, weighted_substitute),
    steps=lambda v: 4,
    levels=(HARD,),
)


FAMILIES = (ONE_STEP, LINEAR, BOTH, SUM_DIFFERENCE, WEIGHTED)
