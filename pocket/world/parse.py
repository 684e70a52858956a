"""Parsing of original and evolved pocket texts into their structure."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache

from .families import FAMILIES
from .language import LETTERS
from .tree import (
    DEFINITIONS,
    INTERVAL_PROPERTIES,
    LETTER_FORMS,
    PROPERTIES,
    At,
    Branch,
    Define,
    Expression,
    Item,
    Letter,
    Linear,
    Node,
    Product,
    Property,
    Question,
    Split,
    Unsound,
    evaluate,
)
from .values import canonical, whole

MAX_CHARACTERS = 2000
QUESTION_VERBS = ("Find", "Compute", "Determine", "Calculate", "What is the value of", "What is")
_LINEAR = r"-?\d{0,3}[A-Zj-w](?: [+-] \d{0,3}[A-Zj-w])*(?: [+-] \d{1,4}(?:/[1-9]\d{0,2})?)?"


def parse(text: str) -> Node | None:
    """Return the structure of a text, or None if it is not a pocket text. The structure may be unsound.

    Extra white space is ignored. Texts of more than 2,000 characters are not pocket texts.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    text = " ".join(text.split())
    if not text.isascii():
        return None
    text, clauses = take_clauses(text)
    letters, place = read_letters(text)
    letters += clauses
    items: list[Item] = []
    while place < len(text):
        question = read_question(text, place)
        if question is not None:
            return Node(letters=letters, items=tuple(items), question=question)
        read = read_item(text, place)
        if read is None:
            return None
        item, place = read
        items.append(item)
        place += 1
        if isinstance(item, Branch) and item.ending.name is None:
            return Node(letters=letters, items=tuple(items)) if place > len(text) else None
    return None


def oracle(text: str) -> str | None:
    """Return the answer of a sound pocket text in canonical form, or None for any other text. Never raises."""
    node = parse(text)
    if node is None:
        return None
    try:
        return canonical(evaluate(node).answer)
    except Unsound:
        return None


def read_letters(text: str) -> tuple[tuple[Letter, ...], int]:
    """Return the letters that are defined in sentences of their own, and where the text goes on."""
    found: list[Letter] = []
    place = 0
    while True:
        for index, regex in enumerate(letter_regexes()):
            match = regex.match(text, place)
            if match is not None:
                found.append(read_letter(match, index, first=True))
                place = match.end()
                break
        else:
            return tuple(found), place


def read_letter(match: re.Match[str], form: int, *, first: bool) -> Letter:
    """Return the letter of a match of the definition number `form`; `first`: it is in a sentence of its own."""
    groups = match.groupdict()
    number = {key: int(groups.get(key) or 0) for key in "km"}
    return Letter(letter=match["L"], form=form, k=number["k"], m=number["m"], first=first)


def take_clauses(text: str) -> tuple[str, tuple[Letter, ...]]:
    """Return the text without the clauses that define letters (``, where 2a = 28``), and these letters."""
    found: list[Letter] = []
    if ", where " not in text:
        return text, ()
    for clauses in clauses_regex().finditer(text):
        for clause in clauses[1].split(" and "):
            matches = [regex.fullmatch(clause) for regex in clause_regexes()]
            found += [read_letter(match, form, first=False) for form, match in enumerate(matches) if match][
                :1
            ]
    return clauses_regex().sub("", text), tuple(found)


@cache
def letter_regexes() -> tuple[re.Pattern[str], ...]:
    """Return the pattern of every sentence that defines a letter."""
    return tuple(re.compile(letter_pattern(sentence) + " ") for sentence, _, _ in LETTER_FORMS)


@cache
def clause_regexes() -> tuple[re.Pattern[str], ...]:
    """Return the pattern of every clause that defines a letter."""
    return tuple(re.compile(letter_pattern(clause)) for _, clause, _ in LETTER_FORMS)


@cache
def clauses_regex() -> re.Pattern[str]:
    """Return the pattern of all clauses at the end of a sentence, `where ... and ...`."""
    letter, number = f"[{LETTERS}]", r"\d{1,4}"
    clauses = [re.escape(clause) for _, clause, _ in LETTER_FORMS]
    one = "|".join(
        c.replace(r"\{L\}", letter).replace(r"\{k\}", number).replace(r"\{m\}", number) for c in clauses
    )
    return re.compile(rf", where ((?:{one})(?: and (?:{one}))*)(?=[.?](?: |$))")


def letter_pattern(form: str) -> str:
    """Return the regular expression of a letter's definition, with the groups L, k and m."""
    pattern = re.escape(form).replace(r"\{L\}", f"(?P<L>[{LETTERS}])", 1).replace(r"\{L\}", "(?P=L)")
    return pattern.replace(r"\{k\}", r"(?P<k>\d{1,4})").replace(r"\{m\}", r"(?P<m>\d{1,4})")


def read_item(text: str, place: int) -> tuple[Item, int] | None:
    """Parse the definition or branch at ``place``; return it with the position after its last full stop."""
    found = split_regex().match(text, place)
    if found is not None:
        return Split(source=found["s"], top=found["t"], bottom=found["b"]), found.end()
    for wording, regex in enumerate(definition_regexes()):
        found = regex.match(text, place)
        if found is not None:
            expression = read_expression(found["e"])
            if expression is not None:
                return Define(name=found["n"], expression=expression, wording=wording), found.end()
    for family in FAMILIES:
        for index, template in enumerate(family.templates):
            reading = template.read(text, place)
            if reading is not None:
                branch = Branch(
                    family=family.name, template=index, slots=reading.slots, ending=reading.ending
                )
                return branch, reading.end
    return None


@cache
def split_regex() -> re.Pattern[str]:
    """Return the pattern of a sentence that splits a fraction."""
    return re.compile(r"Write (?P<s>[A-Z]) as (?P<t>[a-z])/(?P<b>[a-z]) in lowest terms\.(?= |$)")


@cache
def definition_regexes() -> tuple[re.Pattern[str], ...]:
    """Return the pattern of every sentence that defines a name, with its expression as group e."""
    regexes = []
    for before, equals, words in DEFINITIONS:
        regexes.append(
            re.compile(
                rf"{before}(?P<n>[A-Z])(?:{equals}(?={plain_regex()}\.)|{words}(?={property_regex()}\.))(?P<e>[^.]+)\.(?= |$)"
            )
        )
    return tuple(regexes)


def read_question(text: str, place: int) -> Question | None:
    """Return the question that ends the text, or None."""
    found = question_regex().match(text, place)
    if found is None or (found["verb"].startswith("What")) != (text[-1] == "?"):
        return None
    expression = read_expression(found["e"])
    return None if expression is None else Question(verb=found["verb"], expression=expression)


@cache
def question_regex() -> re.Pattern[str]:
    """Return the pattern of a question about an expression."""
    verbs = "|".join(sorted(QUESTION_VERBS, key=len, reverse=True))
    return re.compile(rf"(?P<verb>{verbs}) (?P<e>{plain_regex()}|{property_regex()})[.?]$")


def plain_regex() -> str:
    """Match a linear expression, a product of two names, or a polynomial at a point."""
    return rf"(?:{_LINEAR}|[A-Zj-w][A-Zj-w]|[f-h]\(\d{{1,3}}\))"


@cache
def property_regex() -> str:
    """Return the pattern of any property, without groups."""
    phrases = [kind.phrase for kind in PROPERTIES.values()] + list(INTERVAL_PROPERTIES.values())
    return f"(?:{'|'.join(property_pattern(phrase, named=False) for phrase in phrases)})"


def property_pattern(phrase: str, *, named: bool) -> str:
    """Return the pattern of a property's phrase, with the groups e and k if it is `named`."""
    expression = f"(?P<e>{_LINEAR})" if named else f"(?:{_LINEAR})"
    number = r"(?P<k>[1-9]\d{0,3})" if named else r"[1-9]\d{0,3}"
    return re.escape(phrase).replace(r"\{e\}", expression).replace(r"\{k\}", number)


@cache
def named_properties() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Return each property with its pattern."""
    phrases = {kind: entry.phrase for kind, entry in PROPERTIES.items()} | INTERVAL_PROPERTIES
    return tuple((kind, re.compile(property_pattern(phrase, named=True))) for kind, phrase in phrases.items())


def read_expression(text: str) -> Expression | None:
    """Parse ``3R + 7``, ``pq``, ``f(3)`` or a property in words."""
    if text.startswith("the "):
        for kind, regex in named_properties():
            found = regex.fullmatch(text)
            if found is not None:
                return Property(kind=kind, of=read_linear(found["e"]), k=int(found.groupdict().get("k") or 0))
        return None
    if text.endswith(")"):
        return At(name=text[0], point=int(text[2:-1]))
    if len(text) == 2 and text.isalpha():
        return Product(left=text[0], right=text[1])
    return read_linear(text)


def read_linear(text: str) -> Linear:
    """Parse a text that matches the linear pattern; terms are separated by `` + `` and `` - ``."""
    terms: list[tuple[int, str]] = []
    constant = Fraction(0)
    for operator, size, name, number in re.findall(r"([+-]?) ?(?:(\d*)([A-Za-z])|(\d+(?:/[1-9]\d*)?))", text):
        direction = -1 if operator == "-" else 1
        if name:
            terms.append((direction * int(size or 1), name))
        else:
            constant += direction * Fraction(number)
    return Linear(terms=tuple(terms), constant=whole(constant))
