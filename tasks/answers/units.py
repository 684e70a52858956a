r"""Units of numbers: `5 cm`, `30 km/h`, `2 square metres`, `\$5`, `12 apples`, `35公里`.

A known unit has a dimension and an exact factor; any other word is a label that equals only itself.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Final

from tasks.answers.tree import Unit

_NAMES: Final[tuple[tuple[str, str, str], ...]] = (
    ("length", "1/1000000000", "nm nanometer nanometre"),
    ("length", "1/1000000", "micrometer micrometre micron"),
    ("length", "1/1000", "mm millimeter millimetre 毫米"),
    ("length", "1/100", "cm centimeter centimetre 厘米"),
    ("length", "1/10", "dm decimeter decimetre 分米"),
    ("length", "1", "m meter metre 米"),
    ("length", "1000", "km kilometer kilometre 公里 千米"),
    ("length", "0.0254", "inch inches"),
    ("length", "0.3048", "ft foot feet"),
    ("length", "0.9144", "yd yard"),
    ("length", "1609.344", "mi mile 英里"),
    ("length_unit", "1", "unit"),
    ("mass", "1/1000000", "mg milligram"),
    ("mass", "1/1000", "g gram 克"),
    ("mass", "1", "kg kilogram kilo 千克 公斤"),
    ("mass", "1000", "tonne 吨"),
    ("mass", "0.45359237", "lb pound"),
    ("mass", "0.028349523125", "oz ounce"),
    ("time", "1/1000", "ms millisecond"),
    ("time", "1", "s sec second 秒"),
    ("time", "60", "min minute 分钟 分"),
    ("time", "3600", "h hr hour 小时 时"),
    ("time", "86400", "day 天"),
    ("time", "604800", "week 周"),
    ("month", "1", "month 个月"),
    ("month", "12", "year yr 年"),
    ("length^3", "1/1000000", "mL ml milliliter millilitre cc 毫升"),
    ("length^3", "1/1000", "L l liter litre 升"),
    ("fluid", "1", "quart qt"),
    ("fluid", "4", "gallon gal"),
    ("fluid", "1/2", "pint"),
    ("fluid", "1/4", "cup"),
    ("money", "1", "dollar buck usd \\$"),
    ("money", "1/100", "cent ¢"),
    ("euro", "1", "€ euro eur"),
    ("sterling", "1", "£ gbp"),
    ("rupee", "1", "₹ rupee rs inr"),
    ("yuan", "1", "¥ 元 yuan rmb cny 人民币"),
    ("angle", "1", "^\\circ deg"),
    ("count", "12", "dozen"),
    ("length mass time^-2", "1", "N newton"),
    ("length^2 mass time^-2", "1", "J joule"),
    ("length^2 mass time^-2", "1000", "kJ kilojoule"),
    ("current time", "1", "C coulomb"),
    ("length^2 mass time^-3", "1", "W watt"),
    ("length^2 mass time^-3", "1000", "kW kilowatt"),
    ("length^-1 mass time^-2", "1", "Pa pascal"),
    ("length^-1 mass time^-2", "1000", "kPa"),
    ("time^-1", "1", "Hz hertz"),
    ("time^-1", "1000", "kHz"),
    ("time^-1", "1000000", "MHz"),
    ("current^-1 length^2 mass time^-3", "1", "V volt"),
    ("current", "1", "A ampere amp"),
    ("current^-2 length^2 mass time^-3", "1", "ohm \\Omega"),
    ("amount", "1", "mol mole"),
    ("kelvin", "1", "K kelvin"),
    ("celsius", "1", "^\\circC"),
    ("fahrenheit", "1", "^\\circF"),
    ("data", "1", "Mb MB"),
)
_BASES: Final = {
    name: Unit(dimension=dimension, factor=Fraction(factor))
    for dimension, factor, names in _NAMES
    for name in names.split()
} | {
    "radian": Unit(dimension="angle", factor=Fraction(180), over_pi=True),
    "rad": Unit(dimension="angle", factor=Fraction(180), over_pi=True),
}
_SPEEDS: Final = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "mps": "m/s"}
_POWERS: Final = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3, "squared": 2, "cubed": 3}
_POWER_BEFORE: Final = re.compile(
    r"(?<![A-Za-z])(square|sq|cubic|cu|平方|立方)\.? ?([A-Za-z]+|[\u4e00-\u9fff]+)"
)
_POWER_AFTER: Final = re.compile(r"([A-Za-z]+) (squared|cubed)")
_FACTORS: Final = re.compile(
    r"(\\cdot ?|[ /]|^)(\^\\circ[CF]?|[A-Za-z]+|[€£₹¥¢]|\\\$|\\Omega|[\u4e00-\u9fff]{1,4})(?:\^\{?(-?\d)\}?)?"
)
_GLUED: Final = frozenset("s g".split())
_MODIFIERS: Final = frozenset(
    "hundred thousand million billion trillion half halve third quarter fourth fifth sixth seventh eighth ninth tenth "
    "hundredth thousandth sixteenth percent more less least most fewer over under plus minus times squared cubed factorial "
    "mod modulo base and or not remainder below above zero negative positive about approximately nearly almost only at up "
    "to than if mathrm alpha beta gamma delta theta lambda sigma omega phi when for where with is are even odd twelfth "
    "twentieth fiftieth choose score gross per in x".split()
)
_LABEL: Final = r"[A-Za-z]+(?:[ /-][A-Za-z]+){0,3}"
_PREFIX: Final = r"(?:(?:square|sq|cubic|cu)\.? ?)?"
_SYMBOLS: Final = re.compile(r"\^\\circ ?[CF]?(?![A-Za-z])|[€£₹¥¢]|\\\$|[\u4e00-\u9fff]{1,4}|\\Omega")
_WORDED: Final = re.compile(
    rf"(?P<space> ?)(?P<unit>{_PREFIX}{_LABEL}\.?(?:\^-?\d|\^\{{-?\d\}})?(?:(?:/| per )[A-Za-z]+(?:\^\d)?)?)"
)
_FACTOR: Final = r"[A-Za-z]{1,8}(?:\^\{?-?\d\}?)?"
_PRODUCT: Final = re.compile(
    rf"(?P<value>.*[\d)}}]) ?(?P<unit>(?=.*(?:\\cdot|-)){_FACTOR}(?:(?:\\cdot ?|[ /]){_FACTOR})*)"
)
_LETTER_END: Final = re.compile(r"[\d)}!%]|\\pi$|\]")


@lru_cache(maxsize=16384)
def split_unit(text: str) -> tuple[str, Unit] | None:
    """Split a normalised answer into value and unit, `5 cm` into ("5", 1/100 metre); None without a unit."""
    money = re.fullmatch(
        r"(?:US|U\.S\. ?|CA|AU|HK)?(-?)(?:\\?\$|([€£₹¥])|(?:USD|Rs\.?) ?(?=[-\d]))(-?) ?(.+)", text
    )
    if money:
        rest, sign = money[4], money[1] or money[3]
        unit = _BASES[money[2] or "\\$"]
        after = re.fullmatch(rf"(.*\d)(?: |/)({_LABEL})", rest)
        if after and after[2].split()[0].lower() in ("million", "billion", "thousand", "trillion"):
            return sign + rest, unit
        if after:
            if after[2].casefold() in ("usd", "dollars", "dollar"):
                return sign + after[1], unit
            per = rest[len(after[1])] == "/" or after[2].startswith("per ")
            priced = _product_of_units(f"{money[2] or 'dollar'}/{after[2].removeprefix('per ')}", labels=True)
            return (sign + after[1], priced) if per and priced else None
        return sign + rest, unit
    product = _PRODUCT.fullmatch(text)
    if product and (unit := _product_of_units(product["unit"], labels=True)) is not None:
        return product["value"], unit
    for match in _SYMBOLS.finditer(text):
        if (
            match.end() == len(text)
            and match.start() > 0
            and _LETTER_END.search(text[match.start() - 1 :][:1])
        ):
            written = match[0].replace(" ", "")
            unit = parse_unit(written) or Unit(dimension=f"label {written}")
            return text[: match.start()].strip(), unit
    return _split_words(text)


def _split_words(text: str) -> tuple[str, Unit] | None:
    start = len(text)
    while start > 0 and (text[start - 1].isalpha() or text[start - 1] in " ./-^{}23"):
        start -= 1
        if text[start] == "}" and not re.fullmatch(r"\^\{-?\d\}.*", text[text.rfind("^", 0, start + 1) :]):
            start += 1
            break
    for begin in range(start, len(text)):
        if begin == 0 or not _LETTER_END.search(
            text[:begin][-3:] if text[:begin].endswith("\\pi") else text[begin - 1]
        ):
            continue
        match = _WORDED.fullmatch(text, begin)
        if match and (match["unit"][0].isalpha()):
            found = _unit_after(text[:begin], match["unit"].rstrip("."), spaced=bool(match["space"]))
            if found is not None:
                return found
    return None


def _unit_after(value: str, written: str, *, spaced: bool) -> tuple[str, Unit] | None:
    unit = parse_unit(written)
    if unit is None:
        return None
    closed, labelled = value[-1] in ")}", unit.dimension.startswith("label")
    if len(written) == 1:
        glued = (closed and "\\cdot 10^" in value) or (written in _GLUED and not closed)
        return (value, unit) if glued or (spaced and not labelled) else None
    if labelled and not spaced and (closed or len(written) < 4):
        return None
    return value, unit


@lru_cache(maxsize=4096)
def parse_unit(text: str) -> Unit | None:
    """Parse a product of known units such as `km/h`, or a label made of words; None for anything else."""
    known = _product_of_units(_SPEEDS.get(text, text))
    if known is not None:
        return known
    words = re.split(r"[ /-]", text.casefold())
    if {_singular(word) for word in words} & _MODIFIERS or set(words) & _MODIFIERS:
        return None
    if re.fullmatch(_LABEL, text) and len(text) > 1:
        return Unit(dimension=f"label {' '.join(map(_singular, words))}")
    return None


def _product_of_units(text: str, *, labels: bool = False) -> Unit | None:
    r"""Parse `kg\cdot m^2/s`, `mol^{-1}` or `square metres`; None if a factor is not known, except with `labels`."""
    text = _POWER_BEFORE.sub(
        lambda match: f"{match[2]}^{_POWERS[match[1]]}", text.strip().replace(" per ", "/")
    )
    text = _POWER_AFTER.sub(lambda match: f"{match[1]}^{_POWERS[match[2]]}", text).replace(".", "")
    powers: dict[str, int] = {}
    factor, position = Fraction(1), 0
    for match in _FACTORS.finditer(text):
        sign, name, written = match.groups()
        base = _BASES.get(name) or _BASES.get(_singular(name.lower()))
        if base is None and labels and len(name) > 1:
            base = Unit(dimension=f"label_{name}")
        if base is None or match.start() != position:
            return None
        if base.over_pi:
            return base if match[0] == text else None
        exponent = int(written or 1) * (-1 if sign == "/" else 1)
        for part in base.dimension.split():
            dimension, _, count = part.partition("^")
            powers[dimension] = powers.get(dimension, 0) + int(count or 1) * exponent
        factor, position = factor * base.factor**exponent, match.end()
    if position < len(text) or not text:
        return None
    shown = (name if count == 1 else f"{name}^{count}" for name, count in sorted(powers.items()) if count)
    return Unit(dimension=" ".join(shown) or "none", factor=factor)


def _singular(word: str) -> str:
    if word in ("men", "women", "people", "children", "feet"):
        return {"men": "man", "women": "woman", "people": "person", "children": "child", "feet": "foot"}[word]
    return word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word
