"""What a problem text asks for: questions, requests for a value, requests for a proof or a justification.

All patterns are for English. In doubt a text asks for something, and for a value rather than for a proof.
"""

from __future__ import annotations

import re
from typing import Final

# Where a clause begins: at the start, after punctuation or a formula, after a connective.
_CLAUSE: Final = (
    r"(?:^|[.!?;:,)\]}$\n\"'*，。；：？！、]"
    r"|\b(?:and|then|to|please|now|hence|also|exactly|must|can you|fully|completely|\w+ly)\b)\s*"
)
_VALUE_VERBS: Final = (
    r"(?:find|compute|determine|derive|evaluate|calculate|solve|simplify|obtain|estimate|count|list|identify|describe"
    r"|characteri[sz]e|work out)"
)
_VERBS: Final = (
    rf"(?:{_VALUE_VERBS}|add|apply|approximate|arrange|assign|build|change|check|choose|classify|combine|compare|complete"
    r"|construct|convert|create|decide|decode|decompose|decrypt|deduce|define|demonstrate|derive|differentiate|discuss"
    r"|distribute|divide|double|draw|encode|encrypt|enter|establish|examine|expand|explain|express|extend|factor|fill|form"
    r"|formulate|give|graph|halve|insert|integrate|interpret|invert|isolate|justify|label|locate|make|match|measure"
    r"|multiply|name|order|partition|perform|pick|place|plot|predict|provide|prove|put|rank|rearrange|reduce|replace"
    r"|report|represent|rewrite|round|scale|select|show|sketch|sort|specify|split|state|substitute|subtract|sum|test"
    r"|transform|translate|triple|use|verify|write|\w+i[sz]e|\w+ify)"
)
_REQUEST: Final = re.compile(
    rf"{_CLAUSE}(?:{_VALUE_VERBS}|approximate|convert|derive|enter|expand|express|factor(?:i[sz]e)?|formulate|give|name"
    r"|provide|prove|reduce|report|rewrite|round|show\s+that|state|write)\b",
    re.IGNORECASE,
)
_ANY_REQUEST: Final = re.compile(
    rf"(?:^|[.!?;:$\n\"'*，。；：？！、])\s*(?:please\s+|now\s+|\w+ly\s+)?{_VERBS}\b"
    rf"|,\s+(?:then\s+)?{_VERBS}\s+(?:the|each|all|whether|if|how|why|that|\$)",
    re.IGNORECASE,
)
# "Halve the sum": a sentence whose first word is none of these and is followed by an article is an imperative.
_OTHER_OPENINGS: Final = (
    r"(?:a|about|above|after|all|along|although|among|an|and|any|around|as|assume|at|because|before|behind|below|beside"
    r"|besides|between|both|but|by|consider|denote|despite|during|each|even|every|except|first|for|from|given|half|here|if"
    r"|imagine|in|inside|into|its|just|let|like|near|next|no|not|note|now|of|on|once|only|opposite|or|out|outside|over|per"
    r"|recall|remember|since|so|some|still|such|suppose|than|that|the|their|then|there|these|this|those|though|through"
    r"|throughout|thus|to|today|together|tomorrow|toward|towards|twice|under|unless|until|up|upon|using|via|we|when|where"
    r"|whether|while|with|within|without|yesterday|yet|\w+day|\w+ing|\w+ed|\w+ly)"
)
_IMPERATIVE: Final = re.compile(
    rf"(?:^|(?<=[.!?:\n])\s*)(?!{_OTHER_OPENINGS}\b)[a-z]+(?:\s+(?:up|out|down|off))?\s+(?:the|an?|each|every|both|these|this)\b",
    re.IGNORECASE,
)
_WONDERS: Final = re.compile(
    r"\b(?:what|how)\b|\bwhich\s+(?:of\b|\w+\s+(?:is|are|has|have|can|could|must|should|will|would)\b)"
    r"|(?:^|[.!?]\s+)(?:(?:at|for|in|on|to)\s+)?(?:which|whose)\b",
    re.IGNORECASE,
)
_BLANK: Final = re.compile(
    r"__|\\_|\\underline\{\W*\}|[(\[（]\s*(?:\\q?quad\s*)*[)\]）]|\\boxed\{\s*\}|\\square|\\fbox|□"
)
# "Then the value of $a$ is", "the maximum of $y$ equals:"
_UNFINISHED: Final = re.compile(
    r"(?:\b(?:is|are|be|equals?|equal to|satisf(?:y|ies))|[=:])[\s.…$\\]*$", re.IGNORECASE
)

_ASKS: Final = re.compile(
    r"\b(?:what|what's|how|which|who|whom|whose|when|where|why)\b"
    r"|^\W*(?:is|are|was|were|do|does|did|can|could|will|would|has|have|should)\b",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile(r"\"[^\"\n]{0,200}\"|“[^”\n]{0,200}”|``.{0,200}?''|`[^`'\n]{0,200}'")
SENTENCE_END: Final = re.compile(r"(?<=[.!?])[\s\"')\]]+|\n+")

# Where a request for a value or a proof begins; "he wants to prove" and "one can find" are none.
_OPENING: Final = r"(?:^|[.!?;:,)\]}$\n\"'*]\s*|\b(?:and|then|please|also|hence|thus|must|you to)\s+)"
_VALUE: Final = re.compile(
    rf"{_OPENING}(?:also\s+|then\s+|exactly\s+)?(?:{_VALUE_VERBS}|express|give)\b"
    r"(?!(?:,[^,\n]*,)?\s+(?:if|whether|(?:a|an|your|the)\s+(?:\w+\s+)?(?:proof|counter-?example|reasons?|reasoning|justification)\b))"
    r"|\b(?:what|which|who|when|where|how\s+(?:many|much|long|far|often|old|big|large|small|tall|fast))\b"
    r"(?:[^.?\n]|\.(?=\S)){0,400}\?",
    re.IGNORECASE,
)
_PROOF: Final = re.compile(
    rf"{_OPENING}(?:\\(?:emph|textbf|textit)\{{)?(?:(?:dis)?prove|refute)\b"
    rf"|{_OPENING}(?:show|demonstrate|establish|verify|deduce|conclude|argue|confirm|check|justify),?\s+"
    r"(?:that|why|there|the\s+following|\$|\\[(\[]|(?:the|this|these|an?|its?)\s+(?:following\s+)?(?:\w+\s+)?(?:inequality|inequalities|identity|identities"
    r"|claims?|statements?|theorem|lemma|existence|uniqueness|result|formula|equality|irrationality)\b)"
    rf"|{_OPENING}use\b[^.\n]{{0,120}}\bto\s+(?:prove|show|establish|verify)\b"
    r"|\b(?:(?:task|goal|aim)\s+is\s+to\s+(?:prove|show)|(?:need|want|asked|required)\s+to\s+prove)\b"
    r"|\b(?:give|write|provide|present|construct|find|supply)\s+(?:a|an|your|the)\s+(?:\w+[\s-]+)?proof\b"
    rf"|{_OPENING}(?:justify|explain|motivate|defend)\b|\bgive\s+(?:your\s+|a\s+)?(?:reasons?|reasoning|justification)\b"
    r"|\b(?:with\s+(?:proof|justification)|why\s+or\s+why\s+not)\b",
    re.IGNORECASE,
)

# Verbs that begin a request of its own, unlike "express your answer", "round" or "give".
_COMMANDS: Final = (
    r"(?:find|compute|determine|calculate|evaluate|solve)\b(?!\s+(?:without|by|using|it|this|them)\b)"
)
_COMMAND: Final = re.compile(
    rf"\W*(?:(?:please|then|next|also|finally|in addition|additionally|furthermore|moreover)\b\W*)*{_COMMANDS}",
    re.IGNORECASE,
)
_SECOND_COMMAND: Final = re.compile(
    rf"(?:\band\s+(?:also\s+|then\s+)?|,\s+then\s+){_COMMANDS}", re.IGNORECASE
)

_PROOF_NEEDS: Final = (
    "prove", "proof", "refute", "show", "demonstrat", "establish", "verify", "deduce", "conclude", "argue", "confirm", "check",
    "justif", "explain", "motivate", "defend", "reason", "why",
)  # fmt: skip


def may_match(text: str, needed: tuple[str, ...]) -> bool:
    """Return False only if no pattern that requires one of these lower-case substrings can match.

    Most texts contain none of them, and this test takes a tenth of the pattern's time. Non-ASCII texts always return True,
    because case-insensitive patterns fold more letters than `lower`.
    """
    return not text.isascii() or any(map(text.lower().__contains__, needed))


def compact(text: str) -> str:
    """Return the text with every run of white space as one space or line break; the patterns' time is quadratic in a run."""
    return "\n".join(line for line in (" ".join(line.split()) for line in text.splitlines()) if line)


def asks(text: str) -> bool:
    """Return whether a text has a question mark or an imperative."""
    text = compact(text)
    return "?" in text or _REQUEST.search(text) is not None


def asks_anything(text: str) -> bool:
    """Return whether a text asks, requests, leaves a blank to fill in, or stops where the answer belongs."""
    text = compact(text)
    return asks(text) or any(
        pattern.search(text) for pattern in (_ANY_REQUEST, _WONDERS, _BLANK, _UNFINISHED, _IMPERATIVE)
    )


def asks_for_value(text: str) -> bool:
    """Return whether a text asks for something that can be checked: "find", "how many", but not "whether" or "is it"."""
    return _VALUE.search(compact(text)) is not None


def proof_request(text: str) -> re.Match[str] | None:
    """Return the first request for a proof or a justification."""
    return _PROOF.search(compact(text)) if may_match(text, _PROOF_NEEDS) else None


def requests(text: str) -> list[str]:
    """Return the sentences that are questions or requests for a value, excluding quotations.

    "Find x and find y" counts twice.
    """
    found: list[str] = []
    for sentence in map(str.strip, SENTENCE_END.split(_QUOTED.sub(" ", compact(text)))):
        if "?" in sentence and _ASKS.search(sentence):
            found.append(sentence)
        elif _COMMAND.match(sentence):
            found += [sentence] * (2 if _SECOND_COMMAND.search(sentence) else 1)
    return found
