r"""Conditions and remarks that stand after an answer: `, k \in \mathbb{Z}`, `for any constant C`, `\approx 0.33`."""

from __future__ import annotations

import re
from typing import Final

from tasks.answers.scan import balanced, split

_APPROXIMATE: Final = re.compile(
    r"(?P<exact>.+?) ?(?:\\approx|\(?(?:or )?(?:approximately|approx\.?|about|i\.e\.|=?≈)(?![a-z])).*"
)
_CONDITION: Final = re.compile(
    r"(?:where |with |for (?:all |any |every )?|if |when )?(?P<names>\\?[A-Za-z]+(?:_\w|_\{\w+\})?(?:, ?[A-Za-z](?:_\w)?)*) ?"
    r"(?P<rest>\\in.*|\\ge.*|\\le.*|>.*|<.*|\\ne.*|(?:is|are) an? .*|(?:is|are) .*(?:integers?|constants?|numbers?|real)|"
    r"(?:any|all|arbitrary) .*)"
)
_WORDED: Final = re.compile(
    r" ?(?<![A-Za-z])(?:where\b|for (?:any|all|some|every|part|each|integer|[a-z](?:[=<>]|\\[lgni]))|at [a-z]=|"
    r"(?:if|when|with)\b)"
)
_ANOTHER_CASE: Final = re.compile(r"(?<![A-Za-z])(?:if|when|otherwise|else)\b")
_REMARK: Final = re.compile(
    r"(?:for (?:any|all|some|every|part|each|[a-z]=)|at [a-z]=|when\b|where\b|with .* constants?|in simplest form|if\b|"
    r"\(minimum\)|\(maximum\)|which\b|since\b|because\b).*",
    re.IGNORECASE,
)


def without_conditions(text: str) -> tuple[str, tuple[str, ...], frozenset[str]]:
    """Return the answer, its conditions, and the names that they declare as arbitrary."""
    approximate = _APPROXIMATE.fullmatch(text) if "approx" in text or "about" in text or "≈" in text else None
    if (
        approximate
        and re.search(r"[\d)}]|\\pi", approximate["exact"])
        and not approximate["exact"].endswith("is")
    ):
        text = approximate["exact"].strip().rstrip("=").strip()
    conditions: list[str] = []
    names: set[str] = set()
    for _ in range(3):
        main, tail = _last_part(text)
        if tail is None or not balanced(main):
            break
        match = _CONDITION.fullmatch(tail)
        if match and _declares(main, match["names"]):
            names |= {name.strip() for name in match["names"].split(",")}
            conditions.append(match["rest"].strip())
            text = main
        elif _REMARK.fullmatch(tail):
            text = main
        else:
            break
    kept = tuple(
        sorted(
            _set_of(one)
            for one in conditions
            if "R" not in one and "real" not in one and "constant" not in one
        )
    )
    return text, kept, frozenset(names)


def _set_of(condition: str) -> str:
    for letter, word in (("Z", "integer"), ("N", "natural"), ("N", "positive integer")):
        if (
            f"mathbb{{{letter}}}" in condition
            or re.search(rf"\\in ?{letter}\b", condition)
            or condition.endswith((word, word + "s"))
        ):
            return f"in {letter}"
    return condition.replace(" ", "")


def _last_part(text: str) -> tuple[str, str | None]:
    """Split off what may be a condition: the last part after a comma, or a parenthesis at the end."""
    if text.endswith(")") and "(" in text:
        start = _opening_of_last(text)
        if (
            start > 0
            and re.search(r"\\in|[<>]|\\le|\\ge|[A-Za-z]{4,}", text[start:])
            and text[start - 1] not in "=^_{"
        ):
            return text[:start].strip(" ,"), text[start + 1 : -1].strip()
    parts = split(text, (",", ";"), grouped=True)
    if len(parts) > 1:
        cut = text.rindex(parts[-1])
        return text[:cut].rstrip(" ,;"), parts[-1]
    worded = _WORDED.search(text)
    if worded and worded.start() > 0 and not _ANOTHER_CASE.search(text, worded.end()):
        return text[: worded.start()].strip(), text[worded.start() :].strip()
    return text, None


def _opening_of_last(text: str) -> int:
    level = 0
    for place in range(len(text) - 1, -1, -1):
        level += {")": 1, "(": -1}.get(text[place], 0)
        if level == 0:
            return place
    return -1


def _declares(main: str, names: str) -> bool:
    """Return whether the answer uses the names that the condition is about, and is no relation itself."""
    if re.search(r"\\in(?![a-z])|[<>]|\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])", main):
        return False
    if re.fullmatch(r"-?[\d.]+|-?\\frac\{\d+\}\{\d+\}", main):
        return True
    letters = re.sub(r"\\[A-Za-z]+", lambda match: match[0] if match[0] in names else " ", main)
    return all(name.strip() in letters for name in names.split(","))
