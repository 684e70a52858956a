r"""What a normalised answer may mean: its readings, the most literal one first.

Notation is read from the outside to the inside: conditions, lists, relations, brackets, and at last single values. A text
with two meanings (`1,234`: a number or a list) has two readings; `tasks.answers.compare` decides between them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache, reduce
from itertools import pairwise, product
from typing import Final

from tasks.answers import kinds
from tasks.answers.alternatives import others
from tasks.answers.conditions import without_conditions
from tasks.answers.matrices import matrix, nested, rows_of
from tasks.answers.naming import named_items, relation
from tasks.answers.regions import REALS, Unordered, as_interval, complement, intersection, point, ray
from tasks.answers.scan import MAX_DEPTH, balanced, depth, encloses, signs, split
from tasks.answers.tree import (
    Answer,
    Assignment,
    Choice,
    Expression,
    Infinite,
    Interval,
    Items,
    Node,
    Opaque,
    Reading,
    Region,
    Text,
    Value,
    number,
)
from tasks.answers.words import SYMBOLIC, canonical_text, number_in_words, without_lead

MAX_ITEMS: Final = 150
MAX_NESTING: Final = 8
_WORDS: Final = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")
_PART: Final = re.compile(r" ?(?:for|in) part ?\([a-z]\) ?|(?<=\w) only$")
_CHOICE: Final = re.compile(r"\(?([A-H])(?:\)|[.:]) ?(.+)|\(([A-H])\) ?(.+)")
_BUILDER: Final = re.compile(
    r"\\\{ ?(?P<name>[A-Za-z])(?:\\in ?\\mathbb\{R\})?(?:\||:|\\mid(?![A-Za-z]))(?P<condition>.+)\\\}"
)
_BUILDER_OF_VALUES: Final = re.compile(
    r"^\\\{ ?(?P<value>[^:|]{2,}?) ?(?:\||:|\\mid(?![A-Za-z])) ?(?P<condition>[a-z]\\in[^:|]*?) ?\\\}$"
)
_EXCEPT: Final = re.compile(
    r"(?:all (?:real )?(?:numbers|reals|values)(?: of [a-z])?|\\mathbb\{R\}) ?(?:except|but|other than|excluding|\\setminus|-) ?"
    r"(?:for )?(?:\\\{)?(?P<points>[^{}]+?(?:\{[^{}]*\}[^{}]*)*)(?:\\\})?"
)
_POSITIVE_REALS: Final = re.compile(r"\\mathbb\{R\}(?:[\^_]\{?\+\}?|_\{?>0\}?|\^\{?\*\}?_\{?\+\}?)")
_NAMED_INTERVAL: Final = re.compile(r"[a-z] ?(\([^()\[\]]+, [^()\[\]]+\]|\[[^()\[\]]+, [^()\[\]]+\))")
_REVERSED: Final = re.compile(r"[\[\](][^\[\]()]*,[^\[\]()]*[\[\])]")
_PAIRS: Final = ("()", "[]", "(]", "[)", "\\{\\}", "{}")
_PLUS_MINUS: Final = re.compile(r"\\(pm|mp)(?![A-Za-z])")


@lru_cache(maxsize=32768)
def read(text: str) -> Answer:
    """Return the readings of a normalised answer of at most `notation.MAX_LENGTH` characters."""
    if depth(text) > MAX_DEPTH:
        return Answer(readings=(Opaque(text=text, wordy=True),), rules=("",))
    bare = _BUILDER_OF_VALUES.sub(r"\g<value>, \g<condition>", _PART.sub("", without_lead(text)))
    main, conditions, dummies = without_conditions(bare)
    primary = reading(main)
    found = [("", primary), *others(main, primary, reading)]
    if isinstance(primary, (Text, Opaque)) and main != bare:
        found.append(("a remark after the answer", reading(bare)))
    if isinstance(primary, Assignment):
        dummies |= frozenset(primary.bound)
    return Answer(
        readings=tuple(one for _, one in found), rules=tuple(rule for rule, _ in found), conditions=conditions, dummies=dummies,
    )  # fmt: skip


def reading(text: str, nesting: int = 0) -> Reading:
    """Return the most literal reading of a text."""
    text = text.strip()
    if not text or nesting > MAX_NESTING:
        return Opaque(text=text, wordy=nesting > MAX_NESTING)
    for attempt in (
        _symbol,
        _words_of_number,
        _reversed_brackets,
        _compound,
        _modular,
        _choice,
        _list,
        _relation,
        _signs,
        _set_operation,
        _brackets,
        _matrix,
        _value,
    ):
        found = attempt(text, nesting + 1)
        if found is not None:
            return found
    if len(_WORDS.findall(text)) and not re.search(
        r"\\(?!(?:ldots|mathbb|ne|in|notin|circ)(?![a-z]))[A-Za-z]", text
    ):
        return Text(text=canonical_text(text))
    return Opaque(
        text=text, wordy=not balanced(text) or bool(re.search(r"(?<![A-Za-z\\{])[A-Za-z]{4,}", text))
    )


# --- lists -------------------------------------------------------------------------------------------------------


def _list(text: str, nesting: int) -> Reading | None:
    """Read lists without brackets, from the weakest separator (a semicolon) to the strongest (a comma)."""
    for joint, separators in (
        (";", (";",)), ("or", ("or", "或")), ("\\\\", ("\\\\",)), (",", (",", "and", "和")),
    ):  # fmt: skip
        parts = split(text, separators, grouped=True)
        if len(parts) > 1:
            if sum(len(_WORDS.findall(part)) > 3 for part in parts) and not re.search(r"[=<>]|\\[lg]e", text):
                return Text(text=canonical_text(text))
            return _listed(parts, nesting, joint)
    return None


def _listed(parts: list[str], nesting: int, joint: str = ",") -> Reading:
    if len(parts) > MAX_ITEMS:
        return Opaque(text=", ".join(parts))
    items = [reading(part, nesting) for part in _progression(parts)]
    regions = [item for item in items if isinstance(item, Region)]
    if len(regions) == len(items) > 0:
        return _combined(parts, regions, joint)
    flat: list[Reading] = []
    for item in items:
        flat += item.items if isinstance(item, Items) and item.kind == "list" else (item,)
    return named_items(flat, alternatives=joint == "or")


def _combined(parts: list[str], regions: list[Region], joint: str) -> Reading:
    r"""Return the union of regions, or for `x > 0 and x < 1`, and after a comma where it is not empty, their intersection."""
    if len({region.name for region in regions}) > 1:
        return _of_several_unknowns(parts, regions, joint)
    together = Region(parts=tuple(part for region in regions for part in region.parts), name=regions[0].name)
    if joint != ",":
        return together
    try:
        common = reduce(intersection, regions)
    except Unordered:
        return together
    return replace(common, name=together.name) if common.parts else together


def _of_several_unknowns(parts: list[str], regions: list[Region], joint: str) -> Reading:
    """Return conditions on several unknowns as a list in which the names count; alternatives as a text."""
    if joint == "or":
        return Text(text=" or ".join(sorted(map(canonical_text, parts))))
    named = (Assignment(name=region.name, value=region, strict=True) for region in regions)
    return Items(kind="list", items=tuple(named))


def _progression(parts: list[str]) -> list[str]:
    r"""Write out `1, 2, \ldots, 10`."""
    places = [place for place, part in enumerate(parts) if part in ("\\ldots", "\\ldots ")]
    if len(places) != 1 or places[0] < 2 or places[0] != len(parts) - 2:
        return parts
    known = [*parts[: places[0]], parts[-1]]
    if not all(re.fullmatch(r"-?\d{1,9}", part) for part in known):
        return parts
    first, last = [int(part) for part in known[:-1]], int(known[-1])
    step = first[1] - first[0]
    if step == 0 or any(b - a != step for a, b in pairwise(first)) or (last - first[0]) % step:
        return parts
    count = (last - first[0]) // step + 1
    return [str(first[0] + step * place) for place in range(count)] if 0 < count <= MAX_ITEMS else parts


# --- single objects ----------------------------------------------------------------------------------------------


def _words_of_number(text: str, _: int) -> Reading | None:
    if " and " not in text or (found := number_in_words(text)) is None:
        return None
    return Value(expression=Expression(number(found)))


def _reversed_brackets(text: str, nesting: int) -> Reading | None:
    r"""Read `]0, 1]` as `(0, 1]`."""
    if text[0] != "]" and text[-1] != "[":
        return None
    parts = [part.strip() for part in text.split("\\cup")]
    if not all(_REVERSED.fullmatch(part) for part in parts):
        return None
    turned = [part[0].replace("]", "(") + part[1:-1] + part[-1].replace("[", ")") for part in parts]
    return reading("\\cup ".join(turned), nesting)


def _symbol(text: str, nesting: int) -> Reading | None:
    found = kinds.infinite(text)
    if found is not None:
        return found
    canonical = canonical_text(text)
    if canonical == "\\mathbb{r}":
        return REALS
    if canonical in SYMBOLIC:
        return Text(text=canonical)
    if _POSITIVE_REALS.fullmatch(text):
        return ray(">", Value(expression=Expression(number(0))))
    named = _NAMED_INTERVAL.fullmatch(text)
    if named:
        return reading(named[1], nesting)
    except_points = _EXCEPT.fullmatch(text)
    if except_points:
        points = [reading(part) for part in split(except_points["points"].replace("\\}", ""), (",", "and"))]
        values = [one.value if isinstance(one, Assignment) else one for one in points]
        if all(isinstance(one, Value) for one in values):
            return complement_of(tuple(point(one) for one in values if isinstance(one, Value)))
    return Text(text=text) if re.fullmatch(r"\\mathbb\{[A-Z]\}(?:\^[+*-])?", text) else None


def complement_of(parts: tuple[Interval, ...]) -> Reading | None:
    """Return the complement of intervals; None if they cannot be ordered."""
    try:
        return complement(Region(parts=parts))
    except Unordered:
        return None


def _compound(text: str, _: int) -> Reading | None:
    return kinds.compound(text) if text[0].isdigit() and len(re.findall(r"\d ?[A-Za-z]", text)) > 1 else None


def _modular(text: str, _: int) -> Reading | None:
    return kinds.congruence(text) if "mod" in text else None


def _choice(text: str, nesting: int) -> Reading | None:
    bare = re.fullmatch(r"([A-H])[).:]", text)
    if bare:
        return kinds.value(bare[1])
    match = _CHOICE.fullmatch(text)
    if match is None or (
        match[1] and match[2] and text[1] == ":" and not re.search(r"[A-Za-z]{3}", match[2])
    ):
        return None
    letter, content = match[1] or match[3], match[2] or match[4]
    return (
        Choice(letter=letter, content=reading(content, nesting))
        if not content.startswith(("(", "^", "=", "and", "or", ","))
        else None
    )


def _relation(text: str, nesting: int) -> Reading | None:
    return relation(text, nesting, reading)


def _signs(text: str, nesting: int) -> Reading | None:
    r"""Write out `\pm`: one sign gives two answers, several give all combinations; `\mp` is opposite to `\pm`."""
    found = [match[1] for match in _PLUS_MINUS.finditer(text)]
    if not found or len(found) > 3 or text.startswith("\\{"):
        return None
    if text.startswith(("(", "[")) and encloses(text) and not split(text[1:-1], (",",))[1:]:
        return None
    correlated = "mp" in found and "pm" in found
    choices = (
        [(sign,) * len(found) for sign in "+-"] if correlated else list(product("+-", repeat=len(found)))
    )
    parts = []
    for signs_of in choices:
        chosen = iter(signs_of)
        written = _PLUS_MINUS.sub(lambda match: _signed(match[1], next(chosen), correlated), text)  # noqa: B023
        parts.append(re.sub(r"(^|[(,=] ?)\+ ?", r"\1", written).strip())
    return _listed(parts, nesting)


def _signed(command: str, sign: str, correlated: bool) -> str:
    return {"+": "-", "-": "+"}[sign] if command == "mp" and correlated else sign


def _set_operation(text: str, nesting: int) -> Reading | None:
    for command in ("\\cup", "\\cap", "\\setminus"):
        found, parts = signs(text, (command,))
        if not found:
            continue
        regions = [_region(reading(part, nesting)) for part in parts]
        if any(region is None for region in regions):
            return _united(parts, nesting) if command == "\\cup" else None
        known = [region for region in regions if region is not None]
        try:
            return _operated(command, known)
        except Unordered:
            return None
    return None


def _united(parts: list[str], nesting: int) -> Reading | None:
    items = [reading(part, nesting) for part in parts]
    if all(isinstance(item, Items) and item.kind == "set" for item in items):
        return Items(
            kind="set", items=tuple(one for item in items if isinstance(item, Items) for one in item.items)
        )
    return (
        Items(kind="set", items=tuple(items)) if not any(isinstance(item, Opaque) for item in items) else None
    )


def _operated(command: str, regions: list[Region]) -> Region:
    if command == "\\cup":
        return Region(parts=tuple(part for region in regions for part in region.parts))
    common = regions[0]
    for region in regions[1:]:
        common = intersection(common, region if command == "\\cap" else complement(region))
    return common


def _region(found: Reading) -> Region | None:
    """Return a reading as a set of real numbers."""
    if isinstance(found, Region):
        return found
    if (
        isinstance(found, Items)
        and found.kind == "set"
        and all(isinstance(one, Value) for one in found.items)
    ):
        return Region(parts=tuple(point(one) for one in found.items if isinstance(one, Value)))
    return as_interval(found) if isinstance(found, Items) else None


def _brackets(text: str, nesting: int) -> Reading | None:
    builder = _BUILDER.fullmatch(text)
    if builder:
        inner = reading(builder["condition"], nesting)
        return inner if isinstance(inner, (Region, Items)) else None
    if text.startswith("-(") and isinstance(inner := _brackets(text[1:], nesting), Items):
        return _negative(inner)
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening + closing not in _PAIRS or not encloses(text):
        return None
    inner_text = text[len(opening) : -len(closing)].strip()
    rows = split(inner_text, (";",))
    if opening + closing == "[]" and len(rows) > 1:
        return rows_of([split(row, (",",)) for row in rows], nesting, reading)
    parts = split(inner_text, (",", ";"))
    if opening in ("\\{", "{"):
        return _braces(parts, closing, nesting)
    if len(parts) == 1:
        return reading(parts[0], nesting)
    if not parts or len(parts) > MAX_ITEMS:
        return None
    return _tuple(opening + closing, [reading(part, nesting) for part in parts])


def _negative(items: Items) -> Reading | None:
    """Return minus a tuple."""
    if not all(isinstance(one, Value) for one in items.items):
        return None
    negated = [
        replace(one, expression=Expression(Node("mul", (number(-1), one.expression.node))))
        for one in items.items
        if isinstance(one, Value)
    ]
    return replace(items, items=tuple(negated))


def _braces(parts: list[str], closing: str, nesting: int) -> Reading | None:
    if closing not in ("\\}", "}") or not parts:
        return None
    inner = _listed(parts, nesting)
    if isinstance(inner, Items) and inner.kind == "list":
        return Items(kind="set", items=inner.items)
    return (
        inner if isinstance(inner, Items) and inner.brackets == "names" else Items(kind="set", items=(inner,))
    )


def _tuple(brackets: str, items: list[Reading]) -> Reading:
    if len(items) == 2 and all(isinstance(one, (Value, Infinite)) for one in items):
        low, high = items
        mixed = brackets in ("(]", "[)")
        if mixed or any(isinstance(one, Infinite) for one in items):
            ends = Interval(low=low, high=high, low_closed=brackets[0] == "[", high_closed=brackets[1] == "]")  # type: ignore[arg-type]
            return Region(parts=(ends,))
    rows = nested(items) if brackets == "[]" else None
    return rows or Items(kind="tuple", items=tuple(items), brackets=brackets)


def _matrix(text: str, nesting: int) -> Reading | None:
    return matrix(text, nesting, reading, _listed)


def _value(text: str, _: int) -> Reading | None:
    if "\\ldots" in text and (total := kinds.progression_sum(text)) is not None:
        return total
    found = kinds.clock(text) or kinds.based(text)
    if found is not None:
        return found
    if ":" in text or " to " in text:
        parts = kinds.ratio(text)
        if parts is not None:
            return parts
    return kinds.value(text)
