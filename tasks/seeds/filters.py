"""Reasons in its text for not using a public problem as a seed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from tasks.config import RuleSettings
from tasks.problems.rules import Rule, multiple_choice, needs_figure, proof
from tasks.rows import Reason

Drop = Literal["language", "figure", "choice", "proof", "several_answers", "no_answer"]
"""Reasons that a source's `drop` can list; rows without a text are always dropped."""

REASONS: dict[str, Reason] = {
    "empty": Reason.NO_QUESTION,
    "language": Reason.OTHER_LANGUAGE,
    "figure": Reason.NEEDS_FIGURE,
    "choice": Reason.MULTIPLE_CHOICE,
    "proof": Reason.PROOF,
    "several_answers": Reason.SEVERAL_ANSWERS,
    "no_answer": Reason.NO_ANSWER,
}
FOREIGN_SHARE = 0.1  # share of the letters outside formulas
_IMAGE = re.compile(r"<image_?\d*>|<ImageHere>|!\[[^\]]*\]\(|\bimage_\d+\b", re.IGNORECASE)
_FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a row is unsuitable, with details."""

    drop: str
    detail: str

    @property
    def reason(self) -> Reason:
        """The reason in the table of rejects."""
        return REASONS[self.drop]


def text_fault(text: str, drop: Collection[str]) -> Fault | None:
    """Return the first fault of a text among those in `drop`, or None."""
    if not text.strip():
        return Fault(drop="empty", detail="no text")
    if "language" in drop and (fault := other_language(text)):
        return fault
    if "figure" in drop and (match := _IMAGE.search(text)):
        return Fault(drop="figure", detail=match.group())
    for name, rule in _RULES:
        if name in drop and (failure := rule(text, _SETTINGS)):
            return Fault(drop=name, detail=failure.detail)
    return None


_SETTINGS = RuleSettings()
_RULES: tuple[tuple[str, Rule], ...] = (
    ("figure", needs_figure), ("choice", multiple_choice), ("proof", proof),
)  # fmt: skip


def other_language(text: str) -> Fault | None:
    """Return a fault if more than a tenth of the letters outside formulas are neither Latin nor Greek.

    Other languages in Latin script are not detected.
    """
    if text.isascii():
        return None
    letters = [char for char in _FORMULA.sub(" ", text) if char.isalpha()]
    foreign = sum(
        not unicodedata.name(char, "").startswith(("LATIN", "GREEK", "MATHEMATICAL", "SCRIPT"))
        for char in letters
        if not char.isascii()
    )
    if foreign > FOREIGN_SHARE * len(letters):
        return Fault(drop="language", detail=f"{foreign} of {len(letters)} letters are not Latin")
    return None
