"""Rules that reject unsuitable problem texts before the judge is called: one small pure function each, in `RULES`.

The rules favour precision over recall: in doubt a text passes, because the five-criteria judge follows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tasks.config import RuleSettings
from tasks.rows import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFailure:
    """The first rule that a text violates, with details."""

    reason: Reason
    detail: str


Rule = Callable[[str, RuleSettings], RuleFailure | None]


def check(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Return the first violated rule in the order of `RULES`, or None."""
    return next((failure for rule in RULES if (failure := rule(text, settings))), None)


# --- questions ---------------------------------------------------------------------------------------------------

# Where a clause begins: at the start, after punctuation or a formula, after a connective.
_CLAUSE = r"(?:^|[.!?;:,)\]}$\n\"'*]|\b(?:and|then|to|please|now|hence|also|exactly|must|can you)\b)\s*"
_IMPERATIVE = re.compile(
    _CLAUSE
    + r"(?:find|compute|determine|evaluate|calculate|simplify|solve|express|factori[sz]e|factor|expand"
    r"|give|state|write|derive|obtain|estimate|approximate|list|count|name|identify|convert|round|work out|reduce"
    r"|rewrite|enter|report|provide|describe|characteri[sz]e|formulate)\b",
    re.IGNORECASE,
)
_WONDERS = re.compile(r"\b(?:what|how|which|whose)\b", re.IGNORECASE)
_ASKS = re.compile(
    r"\b(?:what|what's|how|which|who|whom|whose|when|where|why)\b"
    r"|^\W*(?:is|are|was|were|do|does|did|can|could|will|would|has|have|should)\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"\"[^\"\n]{0,200}\"|“[^”\n]{0,200}”|``.{0,200}?''")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\s\"')\]]+|\n+")
_RESTATES = re.compile(
    r"\b(?:can|may) be (?:written|expressed|represented)\b|\bin the form\b|\brelatively prime\b|\bcoprime\b"
    r"|^\W*(?:i\.\s?e\.|that is\b|in other words\b)",
    re.IGNORECASE,
)


def _questions(text: str) -> list[str]:
    """Return the sentences that are questions and end in a question mark, excluding quotations."""
    sentences = (part.strip() for part in _SENTENCE_END.split(_QUOTED.sub(" ", text)))
    return [sentence for sentence in sentences if "?" in sentence and _ASKS.search(sentence)]


def _asks(text: str) -> bool:
    return "?" in text or _IMPERATIVE.search(text) is not None


def _may_match(text: str, needed: tuple[str, ...]) -> bool:
    """Return False only if no pattern that requires one of these lower-case substrings can match.

    Most texts contain none of them, and this test takes a tenth of the pattern's time. Non-ASCII texts always return True,
    because case-insensitive patterns fold more letters than `lower`.
    """
    return not text.isascii() or any(map(text.lower().__contains__, needed))


def _around(text: str, match: re.Match[str]) -> str:
    return " ".join(text[max(0, match.start() - 20) : match.end() + 20].split())


# --- the rules ---------------------------------------------------------------------------------------------------


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


_MATHS = re.compile(
    r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL
)
_LINES_TO_SPACES = str.maketrans("\n\r\t", "   ")
_BAD_CATEGORIES = frozenset({"Cc", "Co", "Cs", "Cn"})


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


_LETTER_RUN = re.compile(r"([^\W\d_])\1{9,}")


def repetition(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Reject a share of repeated word 3-grams above `max_repeated_share`, and a letter ten times in a row."""
    if run := _LETTER_RUN.search(text):
        return RuleFailure(
            reason=Reason.REPETITION, detail=f"letter {run.group(1)!r} {len(run.group())} times in a row"
        )
    words = text.lower().split()
    grams = list(zip(words, words[1:], words[2:], strict=False))
    share = 1.0 - len(set(grams)) / len(grams) if grams else 0.0
    if share > settings.max_repeated_share:
        return RuleFailure(reason=Reason.REPETITION, detail=f"{share:.0%} of the word 3-grams are repeats")
    return None


_PICTURE = r"(?:figure|diagram|picture|image|illustration|drawing|sketch|graph|chart|plot)s?"
_FIGURE = re.compile(
    r"\[asy\]|\\includegraphics|\\begin\{(?:tikzpicture|asy|figure)\}|!\[[^\]]*\]\(|<(?:img|image|svg)\b"
    rf"|\b(?:shown|depicted|illustrated|pictured|drawn|displayed|seen|marked|labell?ed|indicated)\s+(?:in|by|on)\s+"
    rf"(?:the|this)\s+(?:\w+\s+)?{_PICTURE}\b"
    rf"|\b(?:the|this|each)\s+(?:\w+\s+)?{_PICTURE}\s+(?:is\s+|are\s+)?(?:below|above|shown|at\s+(?:the\s+)?right"
    r"|(?:to|on)\s+the\s+(?:right|left))\b"
    rf"|\b(?:see|refer\s+to)\s+(?:the\s+)?(?:\w+\s+)?{_PICTURE}\b"
    rf"|\bthe\s+(?:accompanying|adjoining|attached)\s+{_PICTURE}\b"
    r"|\bin\s+the\s+(?:figure|diagram)\b|\bthe\s+(?:figure|diagram)\s+(?:shows|depicts|illustrates)\b",
    re.IGNORECASE,
)


_FIGURE_NEEDS = (
    "figure", "diagram", "picture", "image", "illustration", "drawing", "sketch", "graph", "chart", "plot", "asy", "![",
    "<img", "<svg",
)  # fmt: skip


def needs_figure(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Reject references to a figure, and code that draws one."""
    if _may_match(text, _FIGURE_NEEDS) and (match := _FIGURE.search(text)):
        return RuleFailure(reason=Reason.NEEDS_FIGURE, detail=_around(text, match))
    return None


_OPTIONS = re.compile(
    r"\bwhich (?:one )?of the following\b|\bchoose the correct (?:answer|option)\b", re.IGNORECASE
)
_LATEX_DRESS = re.compile(r"\\(?:textbf|mathbf|text|mathrm|rm|bf)\b|\\q?quad|\\[ ,;~]|[${}*~]")
_LABEL_STYLES = (
    re.compile(r"(?<![^\s:?.,;])\(([A-Ea-e])\)"),
    re.compile(r"(?<![^\s:?.,;])([A-Ea-e])\)(?=\s)"),
    re.compile(r"(?<![^\s:?.,;])([A-E])[.:](?=\s)"),
)
_CONDITIONS = re.compile(
    r"\b(?:conditions?|satisf\w+|such that|propert\w+|rules?|constraints?|requirements?|statements?|axioms?|moves?"
    r"|operations?|steps?|stages?|cases?|types?|kinds?|where|if|let)\b",
    re.IGNORECASE,
)


def multiple_choice(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Reject lists of labelled options: labels A, B, ... in order, with the question before the first and none after it.

    Labelled points, conditions "(a) ... (b) ... find" and formulas f(A) + f(B) are not options.
    """
    if _may_match(text, ("which", "choose")) and (match := _OPTIONS.search(text)):
        return RuleFailure(reason=Reason.MULTIPLE_CHOICE, detail=_around(text, match))
    plain = _LATEX_DRESS.sub(" ", text)
    for style in _LABEL_STYLES:
        labels = _in_order(style.finditer(plain))
        if len(labels) >= 2 and _are_options(plain, labels):
            return RuleFailure(reason=Reason.MULTIPLE_CHOICE, detail=_around(plain, labels[0]))
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
    if _asks(options) or before.count("(") != before.count(")"):
        return False
    if lead.rstrip().endswith("?"):
        return True
    last_sentence = _SENTENCE_END.split(lead.strip())[-1]
    introduced = lead.endswith((":", ".", "\n")) and _asks(before)
    return (introduced or len(labels) > 3) and not _CONDITIONS.search(last_sentence)


_PART = re.compile(
    r"(?:^|(?<=\s))(?:\((?:[a-h]|i{1,3}|iv|v|vi|[1-9])\)|(?:[a-h]|[1-9])\)|(?:sub)?(?:problem|part|question)\s+(?:[a-h]|\d+)\s*[:.)])"
    r"|^\s*(?:[1-9]|[a-h])\.(?=\s)",
    re.IGNORECASE | re.MULTILINE,
)


def several_questions(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Reject several questions: a second question about something else, or two enumerated parts that are questions.

    "What is the probability? It can be written as m/n. What is m + n?" is one question.
    """
    questions = _questions(text) if text.count("?") > 1 else []
    if len(questions) > 1 and not _restated(text, questions):
        return RuleFailure(
            reason=Reason.SEVERAL_QUESTIONS,
            detail=f"{len(questions)} questions, the last: {questions[-1][-80:]}",
        )
    pieces = _PART.split(text)[1:]
    asking = sum(_asks(piece) for piece in pieces)
    if asking > 1:
        return RuleFailure(
            reason=Reason.SEVERAL_QUESTIONS, detail=f"{asking} enumerated parts ask for something"
        )
    return None


def _restated(text: str, questions: list[str]) -> bool:
    """Return whether the text after the first question only specifies the form of its answer."""
    after = text[text.find(questions[0]) + len(questions[0]) :]
    return len(questions) == 2 and _RESTATES.search(after.strip()) is not None


_PROOF = re.compile(
    r"(?:^|[.!?;:,)$\]}\n]\s*|\band\s+(?:then\s+)?|\bplease\s+)(?:dis)?prove\b"
    r"|(?:^|[.!?;:\n]\s*|[,)]\s+(?:then\s+)?|\band\s+(?:then\s+)?|\bplease\s+)show\s+that\b",
    re.IGNORECASE,
)


def proof(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Reject requests for a proof. "Find n, or show that none exists" and "the records show that" are not requests."""
    if _may_match(text, ("prove", "show")) and (match := _PROOF.search(text)):
        return RuleFailure(reason=Reason.PROOF, detail=_around(text, match))
    return None


def no_question(text: str, settings: RuleSettings) -> RuleFailure | None:
    """Require a question mark, an imperative such as "find" or "compute", or a "what" or "how" without question mark."""
    if _asks(text) or _WONDERS.search(text):
        return None
    return RuleFailure(reason=Reason.NO_QUESTION, detail=" ".join(text.split())[-80:])


RULES: tuple[Rule, ...] = (
    length,
    bad_characters,
    repetition,
    needs_figure,
    multiple_choice,
    several_questions,
    proof,
    no_question,
)
