"""Splitting of a normalised text at separators and signs that stand outside brackets. Linear time."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import accumulate
from typing import Final

MAX_DEPTH: Final = 30
_SCAN: Final = re.compile(
    r"\\begin\{[a-z]+\*?\}|\\end\{[a-z]+\*?\}|\\\{|\\\}|\\\\|\\[A-Za-z]+|\\.|(?<![A-Za-z])(?:and|or|或|和)(?![A-Za-z])"
    r"|[(){}\[\],;=<>:]|[\u4e00-\u9fff]"
)
_OPENING: Final = frozenset(("(", "[", "{", "\\{"))
_CLOSING: Final = frozenset((")", "]", "}", "\\}"))


def top_level(text: str) -> Iterator[re.Match[str]]:
    """Yield the separators, signs and commands outside brackets and environments."""
    depth = 0
    for match in _SCAN.finditer(text):
        step = _step(match[0])
        depth += step
        if depth == 0 and step == 0:
            yield match


def _step(found: str) -> int:
    if found in _OPENING or found.startswith("\\begin"):
        return 1
    return -1 if found in _CLOSING or found.startswith("\\end{") else 0


def split(text: str, separators: Collection[str], *, grouped: bool = False) -> list[str]:
    """Split at separators outside brackets; the parts are stripped, and empty ones (`1, and 2`) dropped.

    With `grouped`, a comma that may group digits, as in `1,234`, does not separate.
    """
    parts, start = [], 0
    for match in top_level(text):
        if match[0] not in separators:
            continue
        if grouped and match[0] == "," and text[match.end() : match.end() + 1].isdigit():
            continue
        parts.append(text[start : match.start()])
        start = match.end()
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def signs(text: str, wanted: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the wanted signs outside brackets, and the texts between them."""
    found, parts, start = [], [], 0
    for match in top_level(text):
        if match[0] in wanted:
            found.append(match[0])
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return found, [*parts, text[start:].strip()]


def depth(text: str) -> int:
    """Return the nesting depth of the brackets."""
    return max(accumulate(_step(match[0]) for match in _SCAN.finditer(text)), default=0)


def balanced(text: str) -> bool:
    """Return whether every bracket is closed, and no sign of a calculation stands at the end."""
    levels = list(accumulate((_step(match[0]) for match in _SCAN.finditer(text)), initial=0))
    return (
        levels[-1] == 0 and min(levels) == 0 and not text.endswith(("+", "-", "*", "/", "^", "_", "=", "\\"))
    )


def encloses(text: str) -> bool:
    """Return whether the first bracket is closed by the last one."""
    level = 0
    for match in _SCAN.finditer(text):
        level += _step(match[0])
        if level == 0:
            return match.end() == len(text)
    return False
