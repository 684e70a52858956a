"""Properties of the verdicts, and a comparison with sympy on random expressions."""

from __future__ import annotations

import random

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy.parsing.latex import parse_latex

from tasks.answers.equivalence import Outcome, equivalent, verdict
from tasks.answers.verdicts import Basis
from tests.answers.generated import GOLDS, NAMES, REWRITINGS, corrupted, expression

ALLOWED = {
    "a unit on one side only", "a name on one side only", "digits grouped by commas, or a list", "a letter or a unit",
    "the value of a statement",
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_verdicts_are_symmetric_and_every_answer_equals_itself(seed: int) -> None:
    draw = random.Random(seed)
    a, b = (expression(draw, 3, draw.choice(["", NAMES])) for _ in range(2))
    assert verdict(a, b) == verdict(b, a)
    assert verdict(a, a).certain and verdict(a, a).equal


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_proved_equality_is_transitive_and_never_contradicted_by_a_proved_difference(seed: int) -> None:
    draw = random.Random(seed)
    first = expression(draw, 2)
    second, third = f"({first})\\cdot 2-({first})", draw.choice([f"({first})+1-1", f"({first})+1"])
    found = [verdict(first, second), verdict(second, third), verdict(first, third)]
    proved = [one.equal and one.basis is Basis.PROOF for one in found]
    if proved[0] and proved[1]:
        assert found[2].equal
    assert found[0].equal or found[0].outcome is Outcome.UNDECIDED
    assert found[1].equal == found[2].equal or Outcome.UNDECIDED in (found[1].outcome, found[2].outcome)


@pytest.mark.parametrize("name", REWRITINGS)
def test_a_harmless_rewriting_changes_no_answer(name: str) -> None:
    rewritten = {gold: REWRITINGS[name](gold) for gold in GOLDS}
    assert [gold for gold, other in rewritten.items() if not verdict(gold, other).equal] == []
    assert any(gold != other for gold, other in rewritten.items())


def test_there_are_thirty_rewritings() -> None:
    assert len(REWRITINGS) >= 30


def test_the_order_of_sets_and_factors_does_not_matter() -> None:
    assert verdict(r"\{1,2,\sqrt3\}", r"\{\sqrt3,1,2\}").certain
    assert verdict("(x+1)(x-2)(y+3)", "(y+3)(x-2)(x+1)").certain


def test_a_gold_answer_with_one_character_changed_is_equal_only_by_a_ruling_or_a_proof() -> None:
    draw = random.Random(5)
    for _ in range(300):
        gold = draw.choice(GOLDS)
        other = corrupted(gold, draw)
        found = verdict(other, gold)
        if found.outcome is Outcome.EQUAL and found.basis is not Basis.PROOF:
            assert found.rule in ALLOWED, (gold, other)
        if found.equal and found.basis is Basis.PROOF and found.rule != "the same spelling":
            assert _sympy_equal(gold, other) is not False, (gold, other)


def _sympy_equal(first: str, second: str) -> bool | None:
    """Return whether sympy's values at a point agree to 30 digits; None if it cannot read them."""
    try:
        a, b = (parse_latex(text) for text in (first, second))
        names = sorted(a.free_symbols | b.free_symbols, key=str)
        point = {name: sympy.Rational(17 + 3 * place, 7) for place, name in enumerate(names)}
        x, y = (sympy.N(one.subs(point), 40, maxn=300) for one in (a, b))
        return bool(abs(x - y) < sympy.Float("1e-25") * (1 + abs(x)))
    except Exception:  # notation that sympy does not read
        return None


def sympy_disagreements(count: int, seed: int) -> list[tuple[str, str, object]]:
    """Return pairs of random expressions on which our verdict and sympy's values disagree."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        names = draw.choice(["", "x", NAMES])
        first = expression(draw, draw.randint(1, 5), names)
        second = draw.choice(
            [
                f"({first})\\cdot 3-2\\cdot({first})",
                f"({first})+\\frac{{1}}{{10^{{9}}}}",
                expression(draw, 3, names),
            ]
        )
        ours, theirs = verdict(first, second), _sympy_equal(first, second)
        if theirs is not None and ours.outcome is not Outcome.UNDECIDED and ours.equal != theirs:
            found.append((first, second, ours))
    return found


def test_random_expressions_have_the_verdicts_of_sympy() -> None:
    assert sympy_disagreements(60, seed=1) == []


def test_equivalent_never_asks_math_verify_about_what_the_grammar_covers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> bool:
        raise AssertionError

    monkeypatch.setattr("tasks.answers.equivalence.verify", refuse)
    assert not equivalent("9^{9^{9^9}}", "9^{9^{9^8}}")
    assert [equivalent(gold, "17") for gold in GOLDS].count(True) == 1
