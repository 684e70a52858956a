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
    ("length unit", "1", "unit"),
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
    ("volume", "1/1000000", "mL ml milliliter millilitre cc 毫升"),
    ("volume", "1/1000", "L l liter litre 升"),
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
    ("force", "1", "N newton"),
    ("energy", "1", "J joule"),
    ("energy", "1000", "kJ kilojoule"),
    ("charge", "1", "C coulomb"),
    ("power", "1", "W watt"),
    ("power", "1000", "kW kilowatt"),
    ("pressure", "1", "Pa pascal"),
    ("pressure", "1000", "kPa"),
    ("frequency", "1", "Hz hertz"),
    ("frequency", "1000", "kHz"),
    ("frequency", "1000000", "MHz"),
    ("voltage", "1", "V volt"),
    ("current", "1", "A ampere amp"),
    ("resistance", "1", "ohm \\Omega"),
    ("amount", "1", "mol mole"),
    ("temperature K", "1", "K kelvin"),
    ("temperature C", "1", "^\\circC"),
    ("temperature F", "1", "^\\circF"),
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
_POWERS: Final = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}
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
            same = after[2].casefold() in ("usd", "dollars", "dollar")
            per = rest[len(after[1])] == "/" or after[2].startswith("per ")
            dimension = (
                unit.dimension if same else f"{unit.dimension}/{_singular(after[2].removeprefix('per '))}"
            )
            return (sign + after[1], Unit(dimension=dimension)) if same or per else None
        return sign + rest, unit
    product = _PRODUCT.fullmatch(text)
    if product and (unit := _product_of_units(product["unit"])) is not None:
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


def _product_of_units(text: str) -> Unit | None:
    r"""Parse a product of known units with exponents, such as `kg\cdot m^2/s` and `mol^{-1}`."""
    dimensions: dict[str, int] = {}
    factor = Fraction(1)
    for sign, name, written in re.findall(r"(\\cdot ?|[ /]|^)([A-Za-z]+)(?:\^\{?(-?\d)\}?)?", text):
        base = _BASES.get(name) or Unit(dimension=f"label {name}")
        if base.over_pi or (len(name) == 1 and name not in _BASES):
            return None
        exponent = int(written or 1) * (-1 if sign == "/" else 1)
        dimensions[base.dimension] = dimensions.get(base.dimension, 0) + exponent
        factor *= base.factor**exponent
    shown = " ".join(f"{name}^{count}" for name, count in sorted(dimensions.items()) if count)
    return Unit(dimension=shown, factor=factor)


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
    """Parse a known unit, a compound of two such as `km/h`, or a label made of words; None for anything else."""
    text = _SPEEDS.get(text, text)
    above, _, below = text.replace(" per ", "/").partition("/")
    first = _powered(above)
    if not below and first:
        return first
    second = _powered(below) if below else None
    if first and second:
        return Unit(dimension=f"{first.dimension}/{second.dimension}", factor=first.factor / second.factor)
    words = re.split(r"[ /-]", text.casefold())
    if {_singular(word) for word in words} & _MODIFIERS or set(words) & _MODIFIERS:
        return None
    if re.fullmatch(_LABEL, text) and len(text) > 1:
        return Unit(dimension=f"label {' '.join(map(_singular, words))}")
    return None


def _powered(text: str) -> Unit | None:
    """Parse `m`, `m^2`, `m^{2}` or `square metres`. A litre is a thousandth of a cubic metre."""
    text = re.sub(r"\^\{?(\d)\}?$", r"^\1", text.strip())
    prefix, _, rest = re.sub("^(平方|立方)", r"\1 ", text.replace(".", "")).partition(" ")
    exponent = _POWERS.get(prefix, 1)
    name = rest if prefix in _POWERS else text
    for ending, power in (("^2", 2), ("^3", 3), (" squared", 2), (" cubed", 3)):
        if name.endswith(ending):
            exponent, name = exponent * power, name[: -len(ending)]
    base = _BASES.get(name) or _BASES.get(_singular(name.lower()))
    if base is None:
        return None
    if base.dimension == "length" and exponent == 3:
        return Unit(dimension="volume", factor=base.factor**3)
    dimension = base.dimension if exponent == 1 else f"{base.dimension}^{exponent}"
    return Unit(dimension=dimension, factor=base.factor**exponent, over_pi=base.over_pi)


def _singular(word: str) -> str:
    if word in ("men", "women", "people", "children", "feet"):
        return {"men": "man", "women": "woman", "people": "person", "children": "child", "feet": "foot"}[word]
    return word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word
