"""Verdicts on two answers, and how the verdicts on their parts are combined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """What a comparison finds."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNDECIDED = "undecided"


class Basis(StrEnum):
    """Why: a proof; agreement to a few thousand bits; a ruling of docs/answers.md; a ruling that only grading and unambiguous
    clusters follow."""

    PROOF = "proof"
    EVIDENCE = "evidence"
    CONVENTION = "convention"
    LENIENT = "lenient"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of comparing two answers, and the rule or proof that it rests on."""

    outcome: Outcome
    basis: Basis
    rule: str

    @property
    def equal(self) -> bool:
        """Whether the two are equal without leniency."""
        return self.outcome is Outcome.EQUAL and self.basis is not Basis.LENIENT

    @property
    def certain(self) -> bool:
        """Whether the verdict is a proof, so that no judge has to be asked."""
        return self.outcome is not Outcome.UNDECIDED and self.basis is Basis.PROOF


def equal(rule: str, basis: Basis = Basis.PROOF) -> Verdict:
    """Return the verdict that two answers are equal."""
    return Verdict(Outcome.EQUAL, basis, rule)


def different(rule: str, basis: Basis = Basis.PROOF) -> Verdict:
    """Return the verdict that two answers differ."""
    return Verdict(Outcome.DIFFERENT, basis, rule)


UNDECIDED: Final = Verdict(Outcome.UNDECIDED, Basis.CONVENTION, "no rule and no proof applies")
OTHER_KIND: Final = different("different kinds of answer", Basis.CONVENTION)
_STRENGTH: Final = (Basis.PROOF, Basis.EVIDENCE, Basis.CONVENTION, Basis.LENIENT)


def weaker(verdict: Verdict, rule: str, basis: Basis = Basis.CONVENTION) -> Verdict:
    """Return a verdict that rests on a ruling, too."""
    stronger = _STRENGTH.index(verdict.basis) >= _STRENGTH.index(basis)
    return verdict if stronger else Verdict(verdict.outcome, basis, rule)


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on several pairs: different if one pair is, equal if all are; the weakest basis counts."""
    result = equal("equal in all parts")
    undecided = None
    for verdict in verdicts:
        if verdict.outcome is Outcome.DIFFERENT:
            return verdict
        if verdict.outcome is Outcome.UNDECIDED:
            undecided = verdict
        elif _STRENGTH.index(verdict.basis) > _STRENGTH.index(result.basis):
            result = verdict
    return undecided or result


def by_ruling(verdict: Verdict, rule: str) -> Verdict:
    """Return a verdict on values, where equality of the answers rests on a ruling, too; a difference needs none."""
    return weaker(verdict, rule) if verdict.outcome is Outcome.EQUAL else verdict
