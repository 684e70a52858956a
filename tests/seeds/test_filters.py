"""Faults in the text of a public problem, which lead to a reject only if the source drops them."""

from __future__ import annotations

import pytest

from tasks.rows import Reason
from tasks.seeds.filters import text_fault

ALL = ("language", "figure", "choice", "proof")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Find $x$ if $x+1=2$.", None),
        ("", Reason.NO_QUESTION),
        (" \n", Reason.NO_QUESTION),
        ("求方程 $x^2=1$ 的所有实数解。", Reason.OTHER_LANGUAGE),
        ("Найдите все целые числа $n$.", Reason.OTHER_LANGUAGE),
        ("Let α, β and Δ be angles with α + β = 90°. Find Δ, café François.", None),
        ("Find the sum $\\sum_{求} x$ of the numbers below ten in the usual order.", None),
        ("In <image_1>, find the angle.", Reason.NEEDS_FIGURE),
        ("What is the area? ![](x.png)", Reason.NEEDS_FIGURE),
        ("In the figure, find the length of AB.", Reason.NEEDS_FIGURE),
        ("In the figure, find the length of AB. [asy] draw((0,0)--(1,1)); [/asy]", None),
        ("What is 1+1? (A) 1 (B) 2 (C) 3", Reason.MULTIPLE_CHOICE),
        ("Let (A) and (B) be points of a circle of radius 2. What is the longest distance?", None),
        ("Prove that $n^2 \\ge n$ for every natural number $n$.", Reason.PROOF),
    ],
)
def test_each_fault_has_its_reason(text: str, reason: Reason | None) -> None:
    fault = text_fault(text, ALL)
    assert (fault.reason if fault else None) == reason


def test_only_the_listed_faults_are_dropped_but_an_empty_text_always() -> None:
    for text in ("Prove that 1 = 1.", "求解。", "What is 1+1? (A) 1 (B) 2", "See <image_1>."):
        assert text_fault(text, ALL) and text_fault(text, ()) is None
    assert text_fault("", ()) is not None
