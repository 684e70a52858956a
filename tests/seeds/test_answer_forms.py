r"""Known forms of gold answers, and answers that are nothing of the kind."""

from __future__ import annotations

import pytest

from tasks.seeds.answer_forms import is_comparable, number_notation, recognise


@pytest.mark.parametrize(
    ("cell", "answer", "solution"),
    [
        ("First 9.\nThen 18.\n#### 18", "18", "First 9.\nThen 18."),
        ("#### 70,000", "70,000", None),
        ("It is 110.\n#### 110\nThe answer is: 110", "110", "It is 110."),
        ("<think>hm</think>\n<answer> 18 </answer>", "18", "<think>hm</think>"),
        (r"So $x = \boxed{\frac{1}{2}}$.", r"\frac{1}{2}", r"So $x = \boxed{\frac{1}{2}}$."),
        (r"$\boxed{7}$", "7", None),
        ("We count.\nThe answer is: 5.", "5", "We count."),
        ("Answer: 3/4", "3/4", None),
        ("9 (apples)", "9", None),
        ("3.5 (square meters)", "3.5", None),
        ('["18"]', "18", None),
        ("['x+1']", "x+1", None),
    ],
)  # fmt: skip
def test_an_answer_is_found_in_each_form(cell: str, answer: str, solution: str | None) -> None:
    form = recognise([cell])
    assert form is not None
    found = form.read(cell)
    assert found is not None and (found.answer, found.solution) == (answer, solution)


@pytest.mark.parametrize(
    "cell",
    [
        "18", r"\frac{1}{2}", "(1, 2)", "[1]", "3 (mod 7)", "f(x)", "2(x+1)", "1 (mod p)", "####", "no answer", "x = 3 and y = 4",
        "[1, 2]", "-",
    ],
)  # fmt: skip
def test_plain_answers_are_left_alone(cell: str) -> None:
    assert recognise([cell]) is None


def test_a_form_needs_half_of_the_answers() -> None:
    form = recognise(["1", "2", "#### 3", "#### 4"])
    assert form is not None and "####" in form.what
    assert recognise(["1", "2", "#### 3"]) is None and recognise([]) is None


@pytest.mark.parametrize(
    ("text", "decimal"),
    [
        ("1e-05", "0.00001"), ("2.5E+16", "25000000000000000"), ("-1.5e-07", "-0.00000015"), ("2e-5", "2e-5"), ("3e", "3e"),
        ("inf", "\\infty"), ("-Infinity", "-\\infty"), ("nan", None), ("infinitely many", "infinitely many"),
        ("1e+9999", "1e+9999"), ("2,5", "2,5"),
    ],
)  # fmt: skip
def test_numbers_as_programs_print_them(text: str, decimal: str | None) -> None:
    assert number_notation(text, decimal_comma=False) == decimal


def test_a_decimal_comma_is_a_point_only_where_it_is_expected() -> None:
    assert [number_notation(text, decimal_comma=True) for text in ("2,5", "-0,25", "1,2,3", "x,5")] == [
        "2.5", "-0.25", "1,2,3", "x,5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "short"),
    [
        ("18", True), ("no such function exists", True), (r"\begin{pmatrix}1 & 2\end{pmatrix}", True), ("x" * 4001, False),
        (r"x \in \mathbb{R} \setminus \left\{ \frac{1}{2}, \sqrt{3} \right\}", True),
        ("The triangle is right-angled because the sum of the squares is a square.", False),
    ],
)  # fmt: skip
def test_a_sentence_cannot_be_compared(answer: str, short: bool) -> None:
    assert is_comparable(answer) is short
