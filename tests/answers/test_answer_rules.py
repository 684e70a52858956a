"""The documented rule of every kind of answer (see the docstring of `tasks.answers.meaning`), each with six hard cases or
more."""

from __future__ import annotations

import pytest

from tasks.answers.equivalence import equivalent

RULES = {
    # ends are compared by value, brackets count, an inequality is an interval, the order of a union does not matter
    "interval": [
        (r"(-\infty, 3]", r"x \le 3", True),
        (r"\left[\frac{1}{2}, \sqrt{4}\right)", "[0.5,2)", True),
        (r"(1,2)\cup[3,4)", r"[3,4)\cup(1,2)", True),
        ("-2 < x < 5", "(-2,5)", True),
        (r"(2,\infty)", r"[2,\infty)", False),
        ("(0,1)", "(0,1]", False),
        (r"(-\infty,0)\cup(0,\infty)", r"(-\infty,\infty)", False),
    ],
    # entries in order; a comma inside brackets is never a thousands separator
    "tuple": [
        ("(1,2)", "(2,1)", False),
        (r"\left(\frac{\pi}{6},\sqrt{12}\right)", r"(\pi/6, 2\sqrt{3})", True),
        ("(1,2,3)", "(1,2)", False),
        ("((1,2),3)", "((1,2),3.0)", True),
        ("(x, x+1)", "(x,1+x)", True),
        ("(1,200)", "1200", False),
    ],
    # no order, no repetition; a bare list is a set, a set of one element is that element, a double sign is two elements
    "set": [
        (r"\{1,2,3\}", r"\{3,2,1\}", True),
        ("1, 2 and 3", r"\{3,1,2\}", True),
        (r"\{5\}", "5", True),
        (r"\{1,1,2\}", r"\{1,2\}", True),
        (r"\pm 2", r"\{-2,2\}", True),
        (r"\{1,2\}", r"\{1,2,3\}", False),
        (r"\{\frac{1}{2},x\}", r"\{x,0.5\}", True),
        (r"\{\}", r"\emptyset", True),
    ],
    # exactly a hundredth
    "percent": [
        (r"12.5\%", "1/8", True),
        ("150 percent", r"\frac{3}{2}", True),
        (r"33\frac{1}{3}\%", "1/3", True),
        ("0.5%", "0.005", True),
        ("50%", "50", False),
        ("33.3%", "1/3", False),
    ],
    # exact conversion within a dimension; a unit on one side only is ignored
    "unit": [
        ("100 cm", "1 m", True),
        (r"90\text{ km/h}", r"25\text{ m/s}", True),
        ("2 m^2", "20000 square centimeters", True),
        (r"\$0.50", "50 cents", True),
        (r"5\text{ cm}", "5", True),
        ("5 cm", "5 m", False),
        ("3 dollars", "3 apples", False),
    ],
    # equal up to a constant factor; a single name denotes its value, several names count
    "equation": [
        ("y=2x+1", "2x-y+1=0", True),
        ("x^2+y^2=4", "2x^2+2y^2=8", True),
        ("x=10", "10", True),
        ("x=1, y=2", "y=2, x=1", True),
        ("x=1, y=2", "x=2, y=1", False),
        ("y=2x", "y=2x+1", False),
        ("x+y=3", "3", False),
    ],
}


@pytest.mark.parametrize(
    ("kind", "a", "b", "same"), [(kind, *case) for kind, cases in RULES.items() for case in cases]
)
def test_each_kind_is_decided_by_its_rule_in_both_directions(kind: str, a: str, b: str, same: bool) -> None:
    assert equivalent(a, b) is same, kind
    assert equivalent(b, a) is same, kind


def test_every_kind_has_six_hard_answers() -> None:
    assert all(len(cases) >= 6 for cases in RULES.values())
