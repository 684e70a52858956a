"""Remainders, common divisors and multiples, and numbers of divisors."""

from __future__ import annotations

import random
from math import gcd

from ..language import abstract, story
from ..values import LIMIT, times
from .base import EASY, HARD, MEDIUM, Drawn, Family, Numbers


def reduce_statement(a: int, m: int) -> str:
    """Return a division with remainder as ``47 = 6 * 7 + 5``."""
    return f"{a} = {a // m} * {m} + {a % m}"


def remainder_division(v: Numbers) -> list[str]:
    return [reduce_statement(v["a"], v["m"]), f"the remainder is {v['a'] % v['m']}"]


def remainder_multiple(v: Numbers) -> list[str]:
    below = v["a"] - v["a"] % v["m"]
    return [
        f"the largest multiple of {v['m']} up to {v['a']} is {below}",
        f"{v['a']} - {below} = {v['a'] % v['m']}",
    ]


REMAINDER = Family(
    name="remainder",
    templates=(
        abstract("the remainder when {a} is divided by {m}"),
        abstract("{a} mod {m}"),
        story(
            "{N} [packs|puts] {a} {T} into boxes of {m} until no full box is left to make.",
            "How many {T} are left over?",
            "the number of {T} left over",
        ),
        story(
            "{N} lets {a} children form teams of {m} in the [park|gym|yard].",
            "How many children are left without a team?",
            "the number of children without a team",
        ),
        story(
            "A [ribbon|rope|cable] of {a} inches is cut into pieces of {m} inches by {N}.",
            "How many inches are left over?",
            "the number of inches left over",
        ),
    ),
    draw=lambda rng, level: {
        "a": rng.randint(8, (20, 99, 400)[level]),
        "m": rng.randint(2, (7, 12, 19)[level]),
    },
    sound=lambda v: v["m"] >= 2 and v["a"] > v["m"],
    answer=lambda v: v["a"] % v["m"],
    routes=(remainder_division, remainder_multiple),
    steps=lambda v: 1,
    levels=(),
)


def product_direct(v: Numbers) -> list[str]:
    product = v["a"] * v["b"]
    return [times(v["a"], v["b"]), reduce_statement(product, v["m"]), f"the remainder is {product % v['m']}"]


def product_reduced(v: Numbers) -> list[str]:
    m = v["m"]
    left, right = v["a"] % m, v["b"] % m
    shown = [reduce_statement(n, m) for n in (v["a"], v["b"]) if n >= m]
    shown.append(times(left, right))
    if left * right >= m:
        shown.append(reduce_statement(left * right, m))
    return [*shown, f"the remainder is {left * right % m}"]


PRODUCT = Family(
    name="product_remainder",
    templates=(
        abstract("the remainder when {a} * {b} is divided by {m}"),
        abstract("{a} * {b} mod {m}"),
        story(
            "{N} has {a} bags with {b} {T} each and fills as many boxes of {m} as possible.",
            "How many {T} do not fit into a full box?",
            "the number of {T} outside the full boxes",
        ),
        story(
            "A [hall|cinema|stadium] has {a} rows of {b} seats, all taken. The guests leave in full groups of {m} "
            "as long as possible.",
            "How many guests remain at the end?",
            "the number of guests who remain at the end",
        ),
        story(
            "For {a} days {N} draws {b} cards a day. The cards are dealt out evenly to {m} players "
            "and the rest is put aside.",
            "How many cards are put aside?",
            "the number of cards put aside",
        ),
    ),
    draw=lambda rng, level: {
        "a": rng.randint(3, (9, 20, 60)[level]),
        "b": rng.randint(3, (9, 20, 60)[level]),
        "m": rng.randint(3, (7, 11, 17)[level]),
    },
    sound=lambda v: v["m"] >= 2 and min(v["a"], v["b"]) >= 2 and v["m"] < v["a"] * v["b"] < 2 * LIMIT,
    answer=lambda v: v["a"] * v["b"] % v["m"],
    routes=(product_direct, product_reduced),
    steps=lambda v: 2,
    levels=(EASY, MEDIUM, HARD),
)


def power_steps(v: Numbers) -> list[str]:
    """Multiply by one factor at a time."""
    a, m, value = v["a"], v["m"], v["a"] % v["m"]
    shown = [f"{a}^1 leaves {value}"]
    for n in range(2, v["n"] + 1):
        shown.append(f"{a}^{n}: {value} * {a} = {value * a}, which leaves {value * a % m}")
        value = value * a % m
    return shown


def power_squares(v: Numbers) -> list[str]:
    """Repeated squaring."""
    a, m, n = v["a"], v["m"], v["n"]
    remainder, power = {1: a % m}, 1
    shown = [f"{a}^1 leaves {a % m}"]
    while power * 2 <= n:
        square = remainder[power] ** 2
        shown.append(
            f"{a}^{2 * power}: {remainder[power]} * {remainder[power]} = {square}, which leaves {square % m}"
        )
        power *= 2
        remainder[power] = square % m
    value, done = remainder[power], power
    for smaller in sorted(remainder, reverse=True):
        if done + smaller <= n:
            product = value * remainder[smaller]
            shown.append(
                f"{a}^{done + smaller}: {value} * {remainder[smaller]} = {product}, which leaves {product % m}"
            )
            value, done = product % m, done + smaller
    return shown


POWER = Family(
    name="power_remainder",
    templates=(
        abstract("the remainder when {a}^{n} is divided by {m}"),
        abstract("{a}^{n} mod {m}"),
        abstract("the remainder of the power {a}^{n} on division by {m}"),
        story(
            "A [virus colony|cell culture|yeast culture] starts with one cell and becomes {a} times as large in each of "
            "{n} hours. {N} sorts the cells into groups of {m}.",
            "How many cells are left over?",
            "the number of cells left over",
        ),
        story(
            "In a [tree|family|network] every node has {a} children. {N} puts the nodes of level {n}, which are {a}^{n}, into "
            "rows of {m}.",
            "How many nodes are left over?",
            "the number of nodes left over",
        ),
    ),
    draw=lambda rng, level: {
        "a": rng.randint(2, 9),
        "n": rng.randint(3, (3, 5, 7)[level]),
        "m": rng.randint(3, 13),
    },
    sound=lambda v: 2 <= v["a"] < 100 and 2 <= v["n"] <= 8 and 2 <= v["m"] < 100,
    answer=lambda v: pow(v["a"], v["n"], v["m"]),
    routes=(power_steps, power_squares),
    steps=lambda v: v["n"],
    levels=(HARD,),
)


def euclid(v: Numbers) -> list[str]:
    a, b = max(v["a"], v["b"]), min(v["a"], v["b"])
    shown = []
    while b:
        shown.append(reduce_statement(a, b))
        a, b = b, a % b
    return [*shown, f"the last number that divides evenly is {a}"]


def divisors_of(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def gcd_listing(v: Numbers) -> list[str]:
    small, large = sorted((v["a"], v["b"]))
    candidates = divisors_of(small)[::-1]
    if len(candidates) > 8:
        return euclid(v)
    shown = [f"the divisors of {small} are {', '.join(map(str, candidates))}"]
    answer = gcd(small, large)
    return [
        *shown,
        f"the first of them that divides {large} is {answer}, since {large} = {answer} * {large // answer}",
    ]


def draw_common(rng: random.Random, level: int) -> Drawn:
    top = (4, 9, 14)[level]
    common, first = rng.randint(2, (4, 9, 15)[level]), rng.randint(1, top)
    return {"a": common * first, "b": common * (first % top + rng.randint(1, 3))}


GCD = Family(
    name="gcd",
    templates=(
        abstract("the greatest common divisor of {a} and {b}"),
        abstract("gcd({a}, {b})"),
        abstract("the largest [number|positive integer|whole number] that divides both {a} and {b}"),
        story(
            "{N} has {a} {T} and {b} sweets and makes as many equal gift bags as possible with all of them.",
            "How many bags are there?",
            "the number of gift bags",
        ),
        story(
            "A floor of {a} by {b} feet is covered with the largest possible equal square tiles by {N}.",
            "How many feet long is the side of a tile?",
            "the side of a tile in feet",
        ),
        story(
            "{N} cuts two [ropes|cables|ribbons] of {a} and {b} yards into equal pieces, as long as "
            "possible, with nothing left.",
            "How many yards long is a piece?",
            "the length of a piece in yards",
        ),
    ),
    draw=draw_common,
    sound=lambda v: min(v["a"], v["b"]) >= 2 and v["a"] != v["b"],
    answer=lambda v: gcd(v["a"], v["b"]),
    routes=(euclid, gcd_listing),
    steps=lambda v: 2,
    levels=(EASY, MEDIUM),
)


def lcm_through_gcd(v: Numbers) -> list[str]:
    common = gcd(v["a"], v["b"])
    part = v["a"] // common
    return [f"the greatest common divisor is {common}", f"{v['a']} / {common} = {part}", times(part, v["b"])]


def lcm_listing(v: Numbers) -> list[str]:
    small, large = sorted((v["a"], v["b"]))
    answer = small * large // gcd(small, large)
    multiples = list(range(large, answer + 1, large))
    if len(multiples) > 7:
        return lcm_through_gcd(v)
    return [
        f"the multiples of {large} are {', '.join(map(str, multiples))}",
        f"the first one divisible by {small} is {answer}, since {answer} = {small} * {answer // small}",
    ]


LCM = Family(
    name="lcm",
    templates=(
        abstract("the least common multiple of {a} and {b}"),
        abstract("lcm({a}, {b})"),
        abstract("the smallest positive [number|integer|whole number] divisible by both {a} and {b}"),
        story(
            "{N} sees that one [light|flag|signal] comes every {a} seconds, another every {b} "
            "seconds. Both come now.",
            "After how many seconds do they come together again?",
            "the number of seconds until they come together again",
        ),
        story(
            "{N} visits the library every {a} days, {M} every {b} days. Today both are there.",
            "In how many days will both be there again?",
            "the number of days until both are there again",
        ),
        story(
            "Plates come in packs of {a}, cups in packs of {b}. {N} wants equally many of both and "
            "as few as possible.",
            "How many plates does {N} buy?",
            "the number of plates that {N} buys",
        ),
    ),
    draw=draw_common,
    sound=lambda v: (
        min(v["a"], v["b"]) >= 2 and v["a"] != v["b"] and v["a"] * v["b"] // gcd(v["a"], v["b"]) < LIMIT
    ),
    answer=lambda v: v["a"] * v["b"] // gcd(v["a"], v["b"]),
    routes=(lcm_through_gcd, lcm_listing),
    steps=lambda v: 2,
    levels=(MEDIUM, HARD),
)


def factorise(n: int) -> list[tuple[int, int]]:
    """Return the prime factorisation, [(2, 2), (3, 1)] for 12."""
    found: list[tuple[int, int]] = []
    for p in range(2, n + 1):
        count = 0
        while n % p == 0:
            n, count = n // p, count + 1
        if count:
            found.append((p, count))
    return found


def divisor_formula(v: Numbers) -> list[str]:
    factors = factorise(v["n"])
    if len(factors) == 1 and factors[0][1] == 1:
        return [
            f"{v['n']} is a prime number",
            "only 1 and the number itself divide it",
            "the number of divisors is 2",
        ]
    shown = " * ".join(f"{p}^{e}" if e > 1 else str(p) for p, e in factors)
    counts = [e + 1 for _, e in factors]
    product, head = (
        counts[0],
        [f"{v['n']} = {shown}", f"the exponents plus one are {', '.join(map(str, counts))}"],
    )
    for count in counts[1:]:
        head.append(times(product, count))
        product *= count
    return [*head, f"the number of divisors is {product}"]


def divisor_pairs(v: Numbers) -> list[str]:
    n = v["n"]
    pairs = [(d, n // d) for d in divisors_of(n) if d * d <= n]
    if len(pairs) > 7:
        return divisor_formula(v)
    square = pairs[-1][0] == pairs[-1][1]
    shown = ", ".join(f"{a} * {b}" for a, b in pairs)
    count = 2 * len(pairs) - square
    total = f"2 * {len(pairs)} - 1 = {count}" if square else f"2 * {len(pairs)} = {count}"
    return [f"the ways to write {n} as a product are {shown}", f"this makes {total} divisors"]


DIVISORS = Family(
    name="divisors",
    templates=(
        abstract("the number of positive divisors of {n}"),
        abstract("the number of positive integers that divide {n} [evenly|without a remainder|exactly]"),
        abstract("the number of pairs of positive integers (r, s) with rs = {n}"),
        story(
            "{N} arranges {n} {T} in equal rows, anything from one row to rows of one.",
            "How many arrangements are possible?",
            "the number of possible arrangements",
        ),
        story(
            "The [teacher|coach|guide] {N} splits {n} pupils into groups of equal size, where one "
            "group or groups of one are allowed.",
            "How many group sizes are possible?",
            "the number of possible group sizes",
        ),
    ),
    draw=lambda rng, level: {"n": rng.randint(6, (20, 90, 180)[level])},
    sound=lambda v: 2 <= v["n"] <= 400,
    answer=lambda v: len(divisors_of(v["n"])),
    routes=(divisor_formula, divisor_pairs),
    steps=lambda v: 2,
    levels=(EASY, MEDIUM, HARD),
)

FAMILIES = (REMAINDER, PRODUCT, POWER, GCD, LCM, DIVISORS)
