"""Chains of operations in words, averages, division in a ratio, and trips."""

from __future__ import annotations

import random
from math import gcd

from ..language import CODES, ChainTemplate, abstract, chain_length, story
from ..values import LIMIT, Pair, running_sum, signed_sum, times
from .base import EASY, HARD, MEDIUM, Drawn, Family, Numbers

CHAIN_TEMPLATES = (
    ChainTemplate(
        kind="abstract",
        start="Start with {n}.",
        steps=(
            ("+", ("Add {k}.", "Increase this by {k}.")),
            ("-", ("Subtract {k}.", "Take away {k}.")),
            ("*", ("Multiply the result by {k}.",)),
            ("/", ("Divide the result by {k}.",)),
        ),
        ask="What is the result?",
        phrase="the result of all this",
    ),
    ChainTemplate(
        kind="abstract",
        start="A display shows the number {n}.",
        steps=(
            ("+", ("The number goes up by {k}.", "Someone adds {k} to it.")),
            ("-", ("The number goes down by {k}.", "Someone subtracts {k} from it.")),
            ("*", ("The number is multiplied by {k}.",)),
            ("/", ("The number is divided by {k}.",)),
        ),
        ask="Which number does the display show at the end?",
        phrase="the number that the display shows at the end",
    ),
    ChainTemplate(
        kind="story",
        start="{N} has {n} {T}.",
        steps=(
            ("+", ("{N} finds {k} more.", "A friend gives {N} {k} more.", "Then {N} buys another {k}.")),
            ("-", ("{N} gives away {k}.", "{N} loses {k} of them.", "Then {N} sells {k} of them.")),
            ("*", ("At a fair {N} wins so many that there are {k} times as many.",)),
            ("/", ("{N} puts them into {k} equal boxes and keeps one box.",)),
        ),
        ask="How many {T} does {N} have now?",
        phrase="the number of {T} that {N} has now",
    ),
    ChainTemplate(
        kind="story",
        start="A bus leaves the station with {n} passengers.",
        steps=(
            ("+", ("At the next stop {k} people get on.", "Then {k} more passengers enter.")),
            ("-", ("At the next stop {k} people get off.", "Then {k} passengers leave the bus.")),
            ("*", ("At the stadium the number of passengers becomes {k} times as large.",)),
            ("/", ("At the harbour only one out of every {k} passengers stays on the bus.",)),
        ),
        ask="How many passengers are on the bus in the end?",
        phrase="the number of passengers on the bus in the end",
    ),
    ChainTemplate(
        kind="story",
        start="{N} starts a game with {n} points.",
        steps=(
            ("+", ("A good move earns {k} points.", "A bonus card brings {k} points.")),
            ("-", ("A mistake costs {k} points.", "A penalty takes {k} points off.")),
            ("*", ("A magic star multiplies the score by {k}.",)),
            ("/", ("A trap divides the score by {k}.",)),
        ),
        ask="What is the score of {N} after the game?",
        phrase="the score of {N} after the game",
    ),
    ChainTemplate(
        kind="story",
        start="There are {n} {T} in the shop of {N} in the morning.",
        steps=(
            ("+", ("A van delivers {k} more.", "The owner unpacks another {k}.")),
            ("-", ("A customer buys {k} of them.", "A school orders {k} of them.")),
            ("*", ("A large delivery makes the stock {k} times as large.",)),
            ("/", ("The stock is shared equally among {k} shops, this one included.",)),
        ),
        ask="How many {T} are in the shop in the evening?",
        phrase="the number of {T} in the shop in the evening",
    ),
)


def draw_chain(rng: random.Random, level: int) -> Drawn:
    count = (2, rng.randint(2, 3), rng.randint(3, 5))[level]
    top = (20, 40, 80)[level]
    value = rng.randint(3, (12, 30, 60)[level])
    drawn: Drawn = {"n": value}
    for i in range(1, count + 1):
        operation = rng.choices("+-*/", (4, 4, 2, 1))[0]
        if (operation == "-" and value < 4) or (operation == "*" and value * 2 > 3 * top):
            operation = "+"
        divisors = [d for d in range(2, 7) if value % d == 0 and value > d]
        if operation == "/" and not divisors:
            operation = "+"
        number = {
            "+": rng.randint(2, max(2, top // 2)),
            "*": rng.randint(2, max(2, min(6, 3 * top // value))),
            "/": rng.choice(divisors or [1]),
            "-": rng.randint(2, max(2, value - 2)),
        }[operation]
        drawn |= {f"o{i}": operation, f"k{i}": number}
        value = apply_operation(value, CODES[operation], number)
    return drawn


def apply_operation(value: int, operation: int, number: int) -> int:
    if operation == CODES["*"]:
        return value * number
    if operation == CODES["/"]:
        return value // number
    return value + operation * number


def chain_values(v: Numbers) -> list[int]:
    """Return the start value and the value after every operation."""
    values = [v["n"]]
    for i in range(1, count_steps(v) + 1):
        values.append(apply_operation(values[-1], v[f"o{i}"], v[f"k{i}"]))
    return values


def count_steps(v: Numbers) -> int:
    return chain_length(dict.fromkeys(v, ""))


def chain_sound(v: Numbers) -> bool:
    value = v["n"]
    for i in range(1, count_steps(v) + 1):
        operation, number = v[f"o{i}"], v[f"k{i}"]
        if number < 1 or (operation == CODES["/"] and value % number):
            return False
        value = apply_operation(value, operation, number)
        if not 0 <= value < LIMIT:
            return False
    return True


def chain_in_order(v: Numbers) -> list[str]:
    shown = []
    for i, value in enumerate(chain_values(v)[:-1], start=1):
        operation, number = v[f"o{i}"], v[f"k{i}"]
        if operation == CODES["*"]:
            shown.append(times(value, number))
        elif operation == CODES["/"]:
            shown.append(f"{value} / {number} = {value // number}")
        else:
            shown.append(running_sum([value, operation * number]))
    return shown


def chain_grouped(v: Numbers) -> list[str]:
    """Add up gains and losses separately; with multiplications or divisions, follow the order of the text."""
    changes = [v[f"o{i}"] * v[f"k{i}"] for i in range(1, count_steps(v) + 1) if abs(v[f"o{i}"]) == 1]
    gains, losses = [c for c in changes if c > 0], [-c for c in changes if c < 0]
    if len(changes) < max(2, count_steps(v)) or not gains or not losses:
        return chain_in_order(v)
    shown = [f"the gains are {running_sum(gains)}", f"the losses are {running_sum(losses)}"]
    return [*shown, running_sum([v["n"], sum(gains), -sum(losses)])]


CHAIN = Family(
    name="chain",
    templates=CHAIN_TEMPLATES,
    draw=draw_chain,
    sound=chain_sound,
    answer=lambda v: chain_values(v)[-1],
    routes=(chain_in_order, chain_grouped),
    steps=count_steps,
    levels=(EASY, MEDIUM, HARD),
)


def average_sum(v: Numbers) -> list[str]:
    parts = [v["a"], v["b"], v["c"], v["d"]]
    return [f"the sum is {running_sum(parts)}", f"{sum(parts)} / 4 = {sum(parts) // 4}"]


def average_around(v: Numbers) -> list[str]:
    """Average the deviations from the smallest number."""
    parts = [v["a"], v["b"], v["c"], v["d"]]
    low = min(parts)
    rest = [part - low for part in parts]
    shown = f"compared with {low} the extra amounts are {', '.join(map(str, rest))}"
    last = f"{low} + {sum(rest)} / 4 = {low} + {sum(rest) // 4} = {sum(parts) // 4}"
    return [shown, f"together this is {running_sum(rest)}", last]


def draw_average(rng: random.Random, level: int) -> Drawn:
    top = (20, 20, 60)[level]
    numbers = [rng.randint(2, top) for _ in range(3)]
    last = rng.randint(2, top)
    last += -(sum(numbers) + last) % 4
    return dict(zip("abcd", [*numbers, last], strict=True))


AVERAGE = Family(
    name="average",
    templates=(
        abstract("the average of {a}, {b}, {c} and {d}"),
        abstract(
            "their mean",
            "[Four numbers are|Here are four numbers:] {a}, {b}, {c} and {d}.",
            "What is their mean?",
        ),
        abstract("the arithmetic mean of {a}, {b}, {c} and {d}"),
        story(
            "{N} [reads|writes|translates] {a} pages on Monday, {b} on Tuesday, {c} on Wednesday and "
            "{d} on Thursday.",
            "How many pages a day is that on average?",
            "the average number of pages a day",
        ),
        story(
            "In four [games|rounds|matches] {N} scores {a}, {b}, {c} and {d} points.",
            "What is the average score?",
            "the average score of {N}",
        ),
        story(
            "Four [baskets|boxes|sacks] hold {a}, {b}, {c} and {d} {T}. {N} moves some until all "
            "hold the same number.",
            "How many {T} does each one hold then?",
            "the number of {T} that each one holds then",
        ),
    ),
    draw=draw_average,
    sound=lambda v: (v["a"] + v["b"] + v["c"] + v["d"]) % 4 == 0 and min(v["a"], v["b"], v["c"], v["d"]) >= 1,
    answer=lambda v: (v["a"] + v["b"] + v["c"] + v["d"]) // 4,
    routes=(average_sum, average_around),
    steps=lambda v: 2,
    levels=(MEDIUM, HARD),
)


def missing_answer(v: Numbers) -> int:
    return 4 * v["m"] - v["a"] - v["b"] - v["c"]


def missing_total(v: Numbers) -> list[str]:
    known = v["a"] + v["b"] + v["c"]
    return [
        f"all four must add up to {times(4, v['m'])}",
        f"the three known ones give {running_sum([v['a'], v['b'], v['c']])}",
        f"{4 * v['m']} - {known} = {missing_answer(v)}",
    ]


def missing_balance(v: Numbers) -> list[str]:
    """Let the deviations from the mean cancel."""
    gaps = [v["m"] - v[name] for name in "abc"]
    shown = [f"{v['m']} - {v[name]} = {gap}" for name, gap in zip("abc", gaps, strict=True)]
    return [*shown, f"{signed_sum([v['m'], *gaps])} = {missing_answer(v)}"]


def draw_missing(rng: random.Random, level: int) -> Drawn:
    mean = rng.randint(6, (12, 20, 50)[level])
    return {"m": mean, **{name: mean + rng.randint(-5, 5) for name in "abc"}}


MISSING = Family(
    name="missing_number",
    templates=(
        abstract(
            "the fourth number",
            "Four numbers have the mean {m}. Three of them are {a}, {b} and {c}.",
            "[Which number is|What is] the fourth one?",
        ),
        abstract("the number y for which {a}, {b}, {c} and y have the average {m}"),
        story(
            "{N} wants an average of {m} points over four [tests|games|rounds]. The first three "
            "bring {a}, {b} and {c}.",
            "How many points does {N} need in the last one?",
            "the number of points that {N} needs in the last one",
        ),
        story(
            "Four [buckets|jars|crates] hold {m} {T} each on average. {N} counts {a}, {b} and {c} in three of them.",
            "How many {T} are in the fourth?",
            "the number of {T} in the fourth",
        ),
        story(
            "Over four days {N} walks {m} miles a day on average: {a}, {b} and {c} miles on the first three days.",
            "How many miles does {N} walk on the fourth day?",
            "the number of miles that {N} walks on the fourth day",
        ),
    ),
    draw=draw_missing,
    sound=lambda v: min(v["a"], v["b"], v["c"]) >= 1 and missing_answer(v) >= 0,
    answer=missing_answer,
    routes=(missing_total, missing_balance),
    steps=lambda v: 3,
    levels=(MEDIUM, HARD),
)


def shares(v: Numbers) -> Pair:
    part = v["s"] // (v["a"] + v["b"])
    return Pair(first=v["a"] * part, second=v["b"] * part)


def ratio_parts(v: Numbers) -> list[str]:
    parts = v["a"] + v["b"]
    part, both = v["s"] // parts, shares(v)
    return [
        f"there are {v['a']} + {v['b']} = {parts} parts",
        f"one part is {v['s']} / {parts} = {part}",
        f"the shares are {times(v['a'], part)} and {times(v['b'], part)}, that is ({both.first}, {both.second})",
    ]


def ratio_rest(v: Numbers) -> list[str]:
    parts = v["a"] + v["b"]
    part, both = v["s"] // parts, shares(v)
    return [
        f"{v['a']} + {v['b']} = {parts} and {v['s']} / {parts} = {part}",
        f"the first share is {times(v['a'], part)}",
        f"the rest is {v['s']} - {both.first} = {both.second}, which gives ({both.first}, {both.second})",
    ]


def draw_ratio(rng: random.Random, level: int) -> Drawn:
    top = (4, 5, 9)[level]
    first, second = rng.choice(
        [(a, b) for a in range(1, top + 1) for b in range(1, top + 1) if gcd(a, b) == 1]
    )
    return {"a": first, "b": second, "s": (first + second) * rng.randint(2, (4, 9, 25)[level])}


RATIO = Family(
    name="ratio",
    templates=(
        abstract(
            "the ordered pair of the two parts",
            "The number {s} is split into two parts in the ratio {a}:{b}.",
        ),
        abstract("the pair (x, y) with x:y = {a}:{b} and x + y = {s}"),
        story(
            "{N} and {M} share {s} {T} in the ratio {a}:{b}.",
            "How many does each get, as an ordered pair?",
            "the ordered pair of the shares of {N} and {M}",
        ),
        story(
            "For a [drink|soup|sauce] {N} mixes juice and water in the ratio {a}:{b} and makes {s} cups.",
            "How many cups of juice and of water are needed, as an ordered pair?",
            "the ordered pair of the cups of juice and of water",
        ),
        story(
            "A [club|choir|camp] has {s} members, and children and adults are in the ratio {a}:{b}.",
            "How many children and how many adults is that, as an ordered pair?",
            "the ordered pair of the numbers of children and adults",
        ),
    ),
    draw=draw_ratio,
    sound=lambda v: min(v["a"], v["b"]) >= 1 and v["s"] >= 1 and v["s"] % (v["a"] + v["b"]) == 0,
    answer=shares,
    routes=(ratio_parts, ratio_rest),
    steps=lambda v: 3,
    levels=(MEDIUM, HARD),
)


def trip_answer(v: Numbers) -> int:
    return v["a"] * v["t"] + v["b"] * v["u"]


def trip_parts(v: Numbers) -> list[str]:
    first, second = v["a"] * v["t"], v["b"] * v["u"]
    return [times(v["a"], v["t"]), times(v["b"], v["u"]), f"{first} + {second} = {first + second}"]


def trip_common(v: Numbers) -> list[str]:
    """Compute everything at the first rate, then correct it."""
    hours, gap = v["t"] + v["u"], v["b"] - v["a"]
    flat = v["a"] * hours
    change = abs(gap) * v["u"]
    verb = "more" if gap >= 0 else "less"
    return [
        f"if all {v['t']} + {v['u']} = {hours} counted {v['a']} each, that would be {times(v['a'], hours)}",
        f"but {v['u']} of them count {abs(gap)} {verb}, which makes {times(abs(gap), v['u'])}",
        running_sum([flat, change if gap >= 0 else -change]),
    ]


TRIP = Family(
    name="two_rates",
    templates=(
        abstract("{a} * {t} + {b} * {u}"),
        abstract("the sum of the products {a} * {t} and {b} * {u}"),
        story(
            "{N} [drives|rides|sails] {t} hours at {a} miles an hour and then {u} hours at {b} miles an hour.",
            "How many miles is that in total?",
            "the total distance of {N} in miles",
        ),
        story(
            "{N} buys {t} [boxes|bags|trays] with {a} {T} each and {u} [crates|sacks|cartons] with {b} {T} each.",
            "How many {T} does {N} buy?",
            "the number of {T} that {N} buys",
        ),
        story(
            "A [theatre|cinema|museum] sells {t} tickets for {a} dollars each and {u} tickets for {b} dollars each.",
            "How many dollars does it take in?",
            "the number of dollars that it takes in",
        ),
    ),
    draw=lambda rng, level: {
        "a": rng.randint(2, (9, 12, 30)[level]),
        "t": rng.randint(2, (3, 6, 9)[level]),
        "b": rng.randint(2, (9, 12, 30)[level]),
        "u": rng.randint(2, (3, 6, 9)[level]),
    },
    sound=lambda v: min(v["a"], v["b"], v["t"], v["u"]) >= 1,
    answer=trip_answer,
    routes=(trip_parts, trip_common),
    steps=lambda v: 3,
    levels=(MEDIUM, HARD),
)

FAMILIES = (CHAIN, AVERAGE, MISSING, RATIO, TRIP)
