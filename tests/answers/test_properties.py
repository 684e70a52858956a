"""Properties of the verdicts, and a comparison with sympy on random expressions."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import sympy
from flint import fmpq
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.answers.equivalence import Outcome, equivalent, verdict
from tasks.answers.verdicts import Basis
from tests.answers.generated import GOLDS, NAMES, REWRITINGS, corrupted, expression

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "a unit on one side only", "a name on one side only", "digits grouped by commas, or a list", "a letter or a unit",
    "the value of a statement", "names that only the problem defines", "arbitrary names", "a number in another base",
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_verdicts_are_symmetric_and_every_answer_equals_itself(seed: int) -> None:
    draw = random.Random(seed)
    a, b = (expression(draw, 3, draw.choice(["", NAMES]))[0] for _ in range(2))
    assert verdict(a, b) == verdict(b, a)
    assert verdict(a, a).certain and verdict(a, a).equal


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_proved_equality_is_transitive_and_never_contradicted_by_a_proved_difference(seed: int) -> None:
    draw = random.Random(seed)
    first, _ = expression(draw, 2)
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


POINTS = """
from tasks.answers.kinds import expression
from tasks.answers.proof import _points
first, second = expression("\\\\sin x+y"), expression("\\\\cos x")
print([list(_points(*pair, ["x", "y"], whole=False)) for pair in ((first, second), (second, first), (first, first))])
"""


def test_test_points_depend_on_the_pair_but_not_on_its_order_or_on_the_process() -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-c", POINTS], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert printed[0] == printed[1]
    first, second, other = eval(printed[0], {"fmpq": fmpq})
    assert first == second != other
    assert len(first) == 12


def sympy_equal(a: sympy.Expr, b: sympy.Expr) -> bool | None:
    """Return whether sympy's values at a point agree to 25 digits; None if they are undefined or too close to say."""
    names = sorted(a.free_symbols | b.free_symbols, key=str)
    point = {name: sympy.Rational(17 + 3 * place, 7) for place, name in enumerate(names)}
    x, y = (one.subs(list(point.items())).evalf(40, maxn=200) for one in (a, b))
    gap, scale = abs((x - y).evalf(20)), (1 + abs(x)).evalf(20)
    if not (gap.is_Float or gap == 0) or not scale.is_Float:
        return None
    return True if gap < 1e-30 * scale else False if gap > 1e-20 * scale else None


def sympy_disagreements(count: int, seed: int, depth: int = 5) -> tuple[int, list[tuple[str, str, object]]]:
    """Return how many pairs of random expressions both decided, and those on which they disagree."""
    draw, found, decided = random.Random(seed), [], 0
    for _ in range(count):
        names = draw.choice(["", "x", NAMES])
        first, x = expression(draw, draw.randint(1, depth), names)
        other = expression(draw, 3, names)
        second, y = draw.choice(
            [
                (f"({first})\\cdot 3-2\\cdot({first})", x),
                (f"({first})+\\frac{{1}}{{10^{{9}}}}", x + sympy.Rational(1, 10**9)),
                other,
            ]
        )
        ours, theirs = verdict(first, second), sympy_equal(x, y)
        if theirs is not None and ours.outcome is not Outcome.UNDECIDED:
            decided += 1
            found += [] if ours.equal == theirs else [(first, second, ours)]
    return decided, found


def test_random_expressions_have_the_verdicts_of_sympy() -> None:
    decided, disagreements = sympy_disagreements(300, seed=1, depth=3)
    assert disagreements == []
    assert decided > 200


def test_equivalent_never_asks_math_verify_about_what_the_grammar_covers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> bool:
        raise AssertionError

    monkeypatch.setattr("tasks.answers.equivalence.verify", refuse)
    assert not equivalent("9^{9^{9^9}}", "9^{9^{9^8}}")
    assert [equivalent(gold, "17") for gold in GOLDS].count(True) == 1
