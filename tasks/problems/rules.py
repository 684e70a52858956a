"""Rules that reject unsuitable problem texts before the judge is called: one small pure function each, in `RULES`.

Each rule is switched by the setting of its name (`rules.<name>` in `RuleSettings`). The first two are the paper's, the others
are ours. The rules favour precision over recall: in doubt a text passes, because the five-criteria judge follows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from tasks.config import RuleSettings
from tasks.problems.figures import DRAWING, around, missing_figure
from tasks.problems.questions import (
    SENTENCE_END,
    asks,
    asks_anything,
    asks_for_value,
    compact,
    may_match,
    proof_request,
    requests,
)
from tasks.rows import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFailure:
    """The first rule that a text violates, with details."""

    reason: Reason
    detail: str


Rule = Callable[[str, RuleSettings], RuleFailure | None]


def check(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Return the first violated rule among those that are on, in the order of `RULES`, or None.

    The detail begins with the setting that switches the rule off.
    """
    for name, rule in RULES.items():
        if getattr(settings, name) and (failure := rule(text, settings)):
            return replace(failure, detail=f"rules.{name}: {failure.detail}")
    return None


# --- the paper's rules -------------------------------------------------------------------------------------------


def length(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Require `min_chars` to `max_chars` characters, without white space at the ends."""
    count = len(text.strip())
    if count < settings.min_chars:
        return RuleFailure(
            reason=Reason.TOO_SHORT, detail=f"{count} characters, fewer than {settings.min_chars}"
        )
    if count > settings.max_chars:
        return RuleFailure(
            reason=Reason.TOO_LONG, detail=f"{count} characters, more than {settings.max_chars}"
        )
    return None


_CHOICES: Final = re.compile(
    r"\bwhich (?:one )?of the following\b|^\W*(?:answer choices|choices|options)\s*:"
    r"|\b(?:choose|select|pick|circle) the (?:correct|right|best|true) (?:answer|option|choice|alternative|statement)\b",
    re.IGNORECASE | re.MULTILINE,
)
_CHOICES_NEED: Final = ("which", "choose", "select", "pick", "circle", "choices", "options")
_LATEX_DRESS: Final = re.compile(r"\\(?:textbf|mathbf|text|mathrm|rm|bf)\b|\\q?quad|\\[ ,;~]|[${}*~]")
_LABEL_STYLES: Final = (
    re.compile(r"(?<![^\s:?.,;)）])[(\[]([A-Ea-e])[)\]]"),
    re.compile(r"(?<![^\s:?.,;)）])([A-Ea-e])\)(?=\s)"),
    re.compile(r"(?<![^\s:?.,;)）])([A-E])(?:[.:](?=\s|-?\d)|[、．])"),
)
_CONDITIONS: Final = re.compile(
    r"\b(?:conditions?|satisf\w+|such that|propert\w+|rules?|constraints?|requirements?|statements?|axioms?|moves?"
    r"|operations?|steps?|stages?|cases?|types?|kinds?|where|if|let)\b",
    re.IGNORECASE,
)
_LISTS: Final = re.compile(
    r"\b(?:find|compute|calculate|determine|evaluate|solve|simplify|give)(?:\s+the\s+following)?\s*:?\s*",
    re.IGNORECASE,
)
_COUNTS: Final = re.compile(r"\bhow many of (?:the following|these|the)\b", re.IGNORECASE)


def multiple_choice(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Reject lists of labelled options: labels A, B, ... in order, with the question before the first and none after it.

    Labelled points, conditions "(a) ... (b) ... find", formulas f(A) + f(B) and statements of which the true ones are to be
    counted are not options.
    """
    if may_match(text, _CHOICES_NEED) and (match := _CHOICES.search(text)):
        return RuleFailure(reason=Reason.MULTIPLE_CHOICE, detail=around(match))
    plain = _LATEX_DRESS.sub(" ", text)
    for style in _LABEL_STYLES:
        labels = _in_order(style.finditer(plain))
        if len(labels) >= 2 and _are_options(plain, labels):
            return RuleFailure(reason=Reason.MULTIPLE_CHOICE, detail=around(labels[0]))
    return None


def _in_order(matches: Iterator[re.Match[str]]) -> list[re.Match[str]]:
    """Return the run A, B, C, ... (or a, b, c, ...) that starts at the last A."""
    run: list[re.Match[str]] = []
    for match in matches:
        label = match.group(1)
        if label in "Aa":
            run = [match]
        elif run and ord(label) == ord(run[-1].group(1)) + 1:
            run.append(match)
    return run


def _are_options(text: str, labels: list[re.Match[str]]) -> bool:
    before, options = text[: labels[0].start()], text[labels[0].start() :]
    lead = before.rstrip(" ")
    if asks(options) or before.count("(") != before.count(")") or _ends_with(_LISTS, before):
        return False
    first = text[labels[0].end() : labels[1].start()]
    if _COUNTS.search(before) and any(map(str.isalpha, first)):
        return False
    if lead.rstrip().endswith("?"):
        return True
    last_sentence = SENTENCE_END.split(lead.strip())[-1]
    introduced = lead.endswith((":", ".", "\n")) and asks(before)
    return ((introduced and len(labels) > 2) or len(labels) > 3) and not _CONDITIONS.search(last_sentence)


def _ends_with(pattern: re.Pattern[str], text: str) -> bool:
    return any(match.end() == len(text) for match in pattern.finditer(text))


# --- our rules ---------------------------------------------------------------------------------------------------


def proof(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Reject requests for a proof or a justification, unless the text also asks for a value that can be checked.

    "Find n and prove that there is no other" and "Determine, with proof, ..." have one checkable answer; "Is it always even?
    Justify your answer" has not, because a bare yes is not what is asked for.
    """
    if (match := proof_request(text)) and not asks_for_value(text):
        return RuleFailure(reason=Reason.PROOF, detail=around(match))
    return None


_ANSWERED: Final = re.compile(r"^\W*(?:solution|final answer|answer)\W*:.*$", re.IGNORECASE | re.MULTILINE)
_PART: Final = re.compile(
    r"(?:^|(?<=[^,]\s))(?:\((?:[a-h]|i{1,3}|iv|v|vi|[1-9])\)|(?:[a-h]|[1-9])\)(?=\s|[A-Z])"
    r"|(?:sub)?(?:problem|part|question)\s+(?:[a-h]|\d+)\s*[:.)])"
    r"|^\s*(?:[1-9]|[a-h])\.(?=\s)",
    re.IGNORECASE | re.MULTILINE,
)
_LISTED: Final = re.compile(
    _LISTS.pattern
    + "(?:"
    + "|".join(
        rf"\(?{first}\)\s*(?=[a-z$\\])[^?]{{0,500}}?\s\(?{second}\)\s"
        for first, second in ("12", "ab", ("i", "ii"))
    )
    + ")",
    re.IGNORECASE,
)
_RESTATES: Final = re.compile(
    r"\b(?:can|may) be (?:uniquely )?(?:written|expressed|represented)\b|\b(?:in|of) the form\b|\brelatively prime\b|\bcoprime\b"
    r"|^\W*(?:i\.\s?e\.|that is\b|in other words\b)",
    re.IGNORECASE,
)


def several_questions(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Reject several questions: a second question about something else, or two enumerated parts that ask for something.

    "What is the probability? It can be written as m/n. What is m + n?" is one question. Parts before the last "Solution:" or
    "Answer:" in the text are answered there and do not count.
    """
    prose = compact(DRAWING.sub(" ", text))
    answered = list(_ANSWERED.finditer(prose))
    remaining = prose[answered[-1].end() :] if answered else prose
    asked = requests(remaining)
    if len(asked) > 1 and not _restated(remaining, asked):
        return RuleFailure(
            reason=Reason.SEVERAL_QUESTIONS, detail=f"{len(asked)} questions, the last: {asked[-1][-80:]}"
        )
    parts = sum(map(asks, _PART.split(remaining)[1:]))
    if parts > 1 or (")" in remaining and _LISTED.search(remaining)):
        return RuleFailure(
            reason=Reason.SEVERAL_QUESTIONS, detail=f"{max(parts, 2)} enumerated parts ask for something"
        )
    return None


def _restated(text: str, asked: list[str]) -> bool:
    """Return whether the text after the first question only specifies the form of its answer."""
    after = text[text.find(asked[0]) + len(asked[0]) :]
    return len(asked) == 2 and any(_RESTATES.search(part.strip()) for part in (asked[0], after))


def needs_figure(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Reject problems whose data are in a figure, a table or a shading that the text does not contain (`figures.py`)."""
    missing = missing_figure(text)
    return None if missing is None else RuleFailure(reason=Reason.NEEDS_FIGURE, detail=missing)


def no_question(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Require a question, an imperative such as "find" or "rationalize", a blank, or an end such as "the value of x is"."""
    if asks_anything(text):
        return None
    return RuleFailure(reason=Reason.NO_QUESTION, detail=" ".join(text.split())[-80:])


_MATHS: Final = re.compile(
    r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL
)
_LINES_TO_SPACES: Final = str.maketrans("\n\r\t", "   ")
_BAD_CATEGORIES: Final = frozenset({"Cc", "Co", "Cs", "Cn"})


def bad_characters(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Reject control, private, unassigned and replacement characters, and mostly non-Latin text (maths, Greek allowed)."""
    plain = text.translate(_LINES_TO_SPACES)
    if plain.isascii() and plain.isprintable():
        return None
    bad = (char for char in plain if char == "\ufffd" or unicodedata.category(char) in _BAD_CATEGORIES)
    if (char := next(bad, None)) is not None:
        return RuleFailure(reason=Reason.BAD_CHARACTERS, detail=f"character U+{ord(char):04X}")
    letters = [char for char in _MATHS.sub(" ", text) if char.isalpha()]
    foreign = sum(
        not unicodedata.name(char, "").startswith(("LATIN", "GREEK", "MATHEMATICAL")) for char in letters
    )
    if 2 * foreign > len(letters):
        return RuleFailure(
            reason=Reason.BAD_CHARACTERS, detail=f"{foreign} of {len(letters)} letters are not Latin"
        )
    return None


_LETTER_RUN: Final = re.compile(r"([^\W\d_])\1{19,}")
_COLUMNS: Final = re.compile(r"\{[lcr|@!\s]*\}")


def repetition(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Reject a share of repeated word 3-grams above `max_repeated_share`, and a letter twenty times in a row.

    Formulas and the columns of a LaTeX table (`{ccc}`) repeat themselves by nature and do not count.
    """
    if run := _LETTER_RUN.search(_COLUMNS.sub(" ", text)):
        return RuleFailure(
            reason=Reason.REPETITION, detail=f"letter {run.group(1)!r} {len(run.group())} times in a row"
        )
    words = _MATHS.sub(" ", text).lower().split()
    grams = list(zip(words, words[1:], words[2:], strict=False))
    share = 1.0 - len(set(grams)) / len(grams) if grams else 0.0
    if share > settings.max_repeated_share:
        return RuleFailure(reason=Reason.REPETITION, detail=f"{share:.0%} of the word 3-grams are repeats")
    return None


RULES: Final[dict[str, Rule]] = {
    rule.__name__: rule
    for rule in (
        length, multiple_choice,
        proof, several_questions, needs_figure, no_question, bad_characters, repetition,
    )
}  # fmt: skip
"""The rules by the setting that switches them, in the order in which they are applied."""
