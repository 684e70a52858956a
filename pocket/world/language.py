"""Words and templates: rendering of numbers as English text, and parsing of this text.

A pattern is plain text with slots. ``{a}`` is a number (or one of the letters a-d after "algebraize"), ``{O}`` an
operator, ``{C}`` and ``{D}`` comparisons, ``{N}`` and ``{M}`` two different people, ``{T}`` countable things, ``{He}``,
``{he}``, ``{his}`` the pronouns of ``{N}``, and ``[gets|receives]`` a free choice of words. A slot that occurs twice has
the same value both times, so every rendered text can be parsed unambiguously.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

HER = tuple("Mia Ava Zoe Lena Nora Ruth Tara Ivy Elsa Maya Priya Sofia Anna Clara Yuki Fatima".split())
HIS = tuple("Ben Omar Liam Noah Hugo Ravi Karl Jon Theo Paul Amir Felix Diego Sam Kofi Marco".split())
NAMES = HER + HIS
THINGS = tuple(
    "shells marbles stamps coins pencils stickers buttons cards beads books apples plums pears lemons cookies muffins "
    "eggs seeds roses tulips bricks tiles badges ribbons candles pebbles magnets postcards keys crayons".split()
)
OPERATORS = ("+", "-")
COMPARISONS = ("<", "<=", ">", ">=")
WORDS: dict[str, tuple[str, ...]] = {"N": NAMES, "M": NAMES, "T": THINGS}
FORMS: dict[str, tuple[str, ...]] = {"O": OPERATORS, "Q": OPERATORS, "C": COMPARISONS, "D": COMPARISONS}
CODES = {"+": 1, "-": -1, "*": 2, "/": 3, "<": 0, "<=": 1, ">": 2, ">=": 3}
PRONOUNS = {"He": ("He", "She"), "he": ("he", "she"), "his": ("his", "her")}
LETTERS = "abcd"
VERBS = ("Find", "Compute", "Determine", "Calculate", "Work out", "Give", "What is")
INTRODUCTIONS = (
    ("Let ", " be "),
    ("Suppose ", " is "),
    ("Let the positive integer ", " be "),
    ("Denote by ", " "),
)
NUMBER = r"(?:[1-9]\d{0,3}|0|[a-d])"
NAME = r"(?:[A-Z]|\([a-z], [a-z]\)|[f-h]\(x\))"

ASK_CHOICES, PHRASE_CHOICES = 20, 40
"""Index of the first free choice in a question and in a phrase; those of the facts start at 0."""

Slots = Mapping[str, str]
Kind = Literal["abstract", "story"]
_TOKEN = re.compile(r"\{(\w+)\}|\[([^\]]*)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The text after the facts: the template's own question (both None), a verb + phrase, or the phrase with a name.

    ``introduction`` is the index into INTRODUCTIONS of the wording that gives the name.
    """

    verb: str | None = None
    name: str | None = None
    introduction: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A template matched in a text: its slots, its ending, and the position after it."""

    slots: dict[str, str]
    ending: Ending
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One wording of a family. An empty ``ask`` means that only questions built from ``phrase`` exist."""

    kind: Kind
    facts: str
    ask: str
    phrase: str
    form: tuple[tuple[str, str], ...] = ()

    def fits(self, slots: Slots) -> bool:
        """Return whether the operators of these slots are those that the wording expresses."""
        return all(slots.get(name) == token for name, token in self.form)

    def complete(self, slots: Slots, rng: random.Random) -> dict[str, str]:
        """Return the slots with random values for all missing people, things and free choices of words."""
        return complete_words(choices(self), slots, rng)

    def facts_text(self, slots: Slots) -> str:
        """Return the sentences before the question; empty if the question contains all facts."""
        return fill(pieces(self.facts, 0), slots)

    def render(self, slots: Slots, ending: Ending) -> str:
        """Return the facts and the question, or what the ending makes of it."""
        if ending.verb is None and ending.name is None:
            body = fill(pieces(self.ask, ASK_CHOICES), slots)
        else:
            body = finish(fill(pieces(self.phrase, PHRASE_CHOICES), slots), ending)
        facts = self.facts_text(slots)
        return f"{facts} {body}" if facts else body

    def read(self, text: str, start: int) -> Reading | None:
        """Return what `render` was given for the text from `start` on, or None if it was not written by this template."""
        found = reading_regex(self).match(text, start)
        if found is None:
            return None
        slots = dict(self.form)
        for group, token in found.groupdict().items():
            if token is not None and not group.startswith("E_"):
                slots[group.partition("__")[0]] = token
        if slots.get("N") is not None and slots.get("N") == slots.get("M"):
            return None
        return Reading(slots=slots, ending=read_ending(found), end=found.end())


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainTemplate:
    """A wording for chains of any length: a start with ``{n}``, one sentence per operation with ``{k}``."""

    kind: Kind
    start: str
    steps: tuple[tuple[str, tuple[str, ...]], ...]
    ask: str
    phrase: str

    def fits(self, slots: Slots) -> bool:
        """Whether the template has a wording for each operation of the chain."""
        known = dict(self.steps)
        return all(slots[f"o{i}"] in known for i in range(1, chain_length(slots) + 1))

    def complete(self, slots: Slots, rng: random.Random) -> dict[str, str]:
        """Return the slots with the missing words: names, things, and the wording of each step."""
        done = complete_words({"N": NAMES, "T": THINGS}, slots, rng)
        known = dict(self.steps)
        for i in range(1, chain_length(slots) + 1):
            done.setdefault(f"_{i}", str(rng.randrange(len(known[slots[f"o{i}"]]))))
        return done

    def facts_text(self, slots: Slots) -> str:
        """Return the start and one sentence per operation."""
        known = dict(self.steps)
        parts = [fill(pieces(self.start), slots)]
        for i in range(1, chain_length(slots) + 1):
            wording = known[slots[f"o{i}"]][int(slots[f"_{i}"])]
            parts.append(fill(pieces(wording), {**slots, "k": slots[f"k{i}"]}))
        return " ".join(parts)

    def render(self, slots: Slots, ending: Ending) -> str:
        """See `Template.render`."""
        return f"{self.facts_text(slots)} {self._close(slots, ending)}"

    def read(self, text: str, start: int) -> Reading | None:
        """See `Template.read`."""
        found = start_regex(self.start).match(text, start)
        if found is None:
            return None
        slots, place = dict(found.groupdict()), found.end()
        while (step := self._read_step(text, place, slots)) is not None:
            place = step
        if not chain_length(slots):
            return None
        return self._read_close(text, place, slots)

    def _read_step(self, text: str, place: int, slots: dict[str, str]) -> int | None:
        number = chain_length(slots) + 1
        for operation, index, regex in step_regexes(self):
            found = regex.match(text, place)
            if found is None:
                continue
            if all(slots.get(key, token) == token for key, token in found.groupdict().items() if key != "k"):
                slots |= {f"o{number}": operation, f"_{number}": str(index), f"k{number}": found["k"]}
                return found.end()
        return None

    def _read_close(self, text: str, place: int, slots: dict[str, str]) -> Reading | None:
        own = self._close(slots, Ending())
        if text.startswith(own, place):
            return Reading(slots=slots, ending=Ending(), end=place + len(own))
        phrase = re.escape(fill(pieces(self.phrase), slots))
        found = re.compile(opening_regex() + phrase + r"(?:\.|\?)").match(text, place)
        if found is None or (found["E_verb"] == "What is") != (found[0][-1] == "?"):
            return None
        return Reading(slots=slots, ending=read_ending(found), end=found.end())

    def _close(self, slots: Slots, ending: Ending) -> str:
        if ending.verb is None and ending.name is None:
            return fill(pieces(self.ask), slots)
        return finish(fill(pieces(self.phrase), slots), ending)


def abstract(phrase: str, facts: str = "", ask: str = "", **form: str) -> Template:
    """Return a wording without a real-world setting."""
    return Template(kind="abstract", facts=facts, ask=ask, phrase=phrase, form=tuple(form.items()))


def story(facts: str, ask: str, phrase: str, **form: str) -> Template:
    """Return a wording with a real-world setting."""
    return Template(kind="story", facts=facts, ask=ask, phrase=phrase, form=tuple(form.items()))


def is_context(slot: str) -> bool:
    """Return whether a slot contains only words, so that another wording may replace it."""
    return slot in WORDS or slot.startswith("_")


def chain_length(slots: Slots) -> int:
    """Return the number of operations in a chain's slots."""
    count = 0
    while f"k{count + 1}" in slots:
        count += 1
    return count


def finish(phrase: str, ending: Ending) -> str:
    """Return the phrase as a question, as a command, or with a name."""
    if ending.name is not None:
        before, after = INTRODUCTIONS[ending.introduction]
        return f"{before}{ending.name}{after}{phrase}."
    return f"{ending.verb} {phrase}{'?' if ending.verb == 'What is' else '.'}"


def read_ending(found: re.Match[str]) -> Ending:
    """Return the ending that a match of `opening_regex` describes."""
    groups = found.groupdict()
    if groups.get("E_verb"):
        return Ending(verb=groups["E_verb"])
    if groups.get("E_name"):
        index = next(i for i, (before, _) in enumerate(INTRODUCTIONS) if before == groups["E_intro"])
        return Ending(name=groups["E_name"], introduction=index)
    return Ending()


def complete_words(
    options: Mapping[str, tuple[str, ...]], slots: Slots, rng: random.Random
) -> dict[str, str]:
    """Return the slots with a word for each that is missing; the two names differ."""
    done = dict(slots)
    for slot, words in options.items():
        if slot in done:
            continue
        taken = done.get("N") if slot == "M" else done.get("M") if slot == "N" else None
        word = rng.choice(words)
        while word == taken:
            word = rng.choice(words)
        done[slot] = word
    return done


def fill(parts: tuple[tuple[str, str], ...], slots: Slots) -> str:
    """Return the text of a pattern; each part is (literal, slot after it), with the slot "" at the end."""
    out: list[str] = []
    for literal, slot in parts:
        out.append(literal)
        if slot in PRONOUNS:
            out.append(PRONOUNS[slot][slots["N"] in HER])
        elif slot:
            out.append(slots[slot])
    return "".join(out)


@cache
def pieces(pattern: str, offset: int = 0) -> tuple[tuple[str, str], ...]:
    """Split a pattern at its slots; free choices become slots ``_offset``, ``_offset+1``, ..."""
    parts: list[tuple[str, str]] = []
    place, free = 0, offset
    for token in _TOKEN.finditer(pattern):
        slot = token[1]
        if slot is None:
            slot, free = f"_{free}", free + 1
        parts.append((pattern[place : token.start()], slot))
        place = token.end()
    parts.append((pattern[place:], ""))
    return tuple(parts)


@cache
def choices(template: Template) -> dict[str, tuple[str, ...]]:
    """Return every context slot of a template with its possible words."""
    found: dict[str, tuple[str, ...]] = {}
    for offset, pattern in offsets(template):
        for token in _TOKEN.finditer(pattern):
            if token[1] in WORDS:
                found[token[1]] = WORDS[token[1]]
            elif token[1] in PRONOUNS:
                found["N"] = NAMES
            elif token[2] is not None:
                found[f"_{offset}"] = tuple(token[2].split("|"))
                offset += 1
    return found


def offsets(template: Template) -> tuple[tuple[int, str], ...]:
    """Return the patterns of a template, each with the index of its first free choice."""
    return ((0, template.facts), (ASK_CHOICES, template.ask), (PHRASE_CHOICES, template.phrase))


def opening_regex() -> str:
    """Return the pattern of how a phrase begins: with a verb, or by naming its value."""
    intros = "|".join(re.escape(before) for before, _ in INTRODUCTIONS)
    afters = "|".join(
        re.escape(after) for after in sorted({after for _, after in INTRODUCTIONS}, reverse=True)
    )
    verbs = "|".join(VERBS)
    return rf"(?:(?P<E_verb>{verbs}) |(?P<E_intro>{intros})(?P<E_name>{NAME})(?:{afters}))"


@cache
def reading_regex(template: Template) -> re.Pattern[str]:
    """Return one anchored regular expression for a template with all of its endings."""
    words = choices(template)
    seen: set[str] = set()
    facts = slot_regex(pieces(template.facts, 0), words, seen, "")
    endings = [
        opening_regex()
        + slot_regex(pieces(template.phrase, PHRASE_CHOICES), words, set(seen), "__p")
        + r"[.?]"
    ]
    if template.ask:
        endings.insert(0, slot_regex(pieces(template.ask, ASK_CHOICES), words, set(seen), "__a"))
    body = f"(?:{'|'.join(endings)})(?= |$)"
    return re.compile(f"{facts} {body}" if facts else body)


@cache
def start_regex(pattern: str) -> re.Pattern[str]:
    """Return the pattern of the sentence that begins a chain."""
    return re.compile(slot_regex(pieces(pattern), {}, set(), "") + " ")


@cache
def step_regexes(template: ChainTemplate) -> tuple[tuple[str, int, re.Pattern[str]], ...]:
    """Return operation, number and pattern of every wording of a step."""
    found: list[tuple[str, int, re.Pattern[str]]] = []
    for operation, wordings in template.steps:
        for index, wording in enumerate(wordings):
            found.append((operation, index, re.compile(slot_regex(pieces(wording), {}, set(), "") + " ")))
    return tuple(found)


def slot_regex(
    parts: tuple[tuple[str, str], ...], words: Mapping[str, tuple[str, ...]], seen: set[str], suffix: str
) -> str:
    """Return the regular expression of a pattern; slots in ``seen`` become back references, new slots are added to it."""
    out: list[str] = []
    for literal, slot in parts:
        out.append(re.escape(literal))
        if not slot:
            continue
        if slot in PRONOUNS:
            out.append(f"(?:{'|'.join(PRONOUNS[slot])})")
            continue
        name = slot if slot in seen else slot + suffix
        if slot in seen or name in seen:
            out.append(f"(?P={name})")
            continue
        options = words.get(slot) or WORDS.get(slot) or FORMS.get(slot)
        inner = "|".join(re.escape(o) for o in sorted(options, reverse=True)) if options else NUMBER
        out.append(f"(?P<{name}>{inner})")
        seen.add(name)
    return "".join(out)
