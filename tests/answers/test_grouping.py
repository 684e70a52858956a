"""Decisions on all answers to one problem: an equivalence, whatever the rulings make equal."""

from __future__ import annotations

from itertools import permutations

import pytest

from tasks.answers.grouping import Settled, settle


def groups(answers: tuple[str, ...], found: Settled) -> set[frozenset[str]]:
    same = {pair for pair, decision in found.decisions.items() if decision}
    return {frozenset(b for b in answers if a == b or (min(a, b), max(a, b)) in same) for a in answers}


@pytest.mark.parametrize(
    ("answers", "expected", "ambiguous"),
    [
        (("198", r"198\%"), [("198", r"198\%")], 0),
        (("198", r"198\%", "1.98"), [("198",), (r"198\%", "1.98")], 1),
        (
            ("5700", "5700 seconds", "95 minutes", "95"),
            [("5700",), ("5700 seconds", "95 minutes"), ("95",)],
            2,
        ),
        (("5", "x=5", "5 cm"), [("5", "x=5", "5 cm")], 0),
        (("5", "x=5", "5 cm", "5 m"), [("5", "x=5"), ("5 cm",), ("5 m",)], 4),
        (("1/2", "0.5", r"50\%", "3"), [("1/2", "0.5", r"50\%"), ("3",)], 0),
        (("1,1,2", r"\{1,1,2\}", r"\{1,2\}"), [("1,1,2",), (r"\{1,1,2\}", r"\{1,2\}")], 1),
    ],
)
def test_a_ruling_joins_classes_only_where_that_is_unambiguous(
    answers: tuple[str, ...], expected: list[tuple[str, ...]], ambiguous: int
) -> None:
    for order in permutations(answers):
        found = settle(order)
        assert groups(order, found) == {frozenset(group) for group in expected}
        assert found.ambiguous == ambiguous


def test_decisions_are_an_equivalence_for_every_mixture() -> None:
    answers = (
        "5",
        "5.0",
        "x=5",
        "5 cm",
        "0.05 m",
        r"5\%",
        "0.05",
        "5 apples",
        "y=5",
        r"\{5\}",
        "(5)",
        "five",
    )
    decisions = settle(answers).decisions
    for a, b, c in permutations(answers, 3):
        first, second, third = (decisions[min(pair), max(pair)] for pair in ((a, b), (b, c), (a, c)))
        assert not (first and second and third is not True), (a, b, c)


def test_only_uncertain_differences_are_left_to_a_judge() -> None:
    decisions = settle(("1", "2", "yes", "x+1", "x+2")).decisions
    assert decisions["1", "2"] is False
    assert decisions["x+1", "x+2"] is False
    assert decisions["1", "yes"] is None
