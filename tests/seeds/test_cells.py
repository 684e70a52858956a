r"""Text that lost its backslashes is told from text with tabs and line breaks."""

from __future__ import annotations

import pytest

from tasks.seeds.cells import Unusable, answer_of, check_text, plain, text_of


@pytest.mark.parametrize(
    "latex",
    [
        r"\frac{1}{2}", r"\frac12", r"\forall x", r"2 \times 3", r"\theta", r"\text{cm}", r"\textbf{a}", r"\tan(x)", r"$\tan x$",
        r"\tfrac{1}{2}", r"x \to \infty", r"\triangle", r"\nabla f", r"$a \neq b$", r"a \rightarrow b", r"\left(1\right)",
        r"\beta", r"\boxed{3}", r"\vec{a}", r"\alpha", r"$\rho = 1$", r"$\tau = 2$", r"\rfloor$",
    ],
)  # fmt: skip
def test_latex_read_as_escapes_is_recognised(latex: str) -> None:
    eaten = latex
    for letter, sign in zip("fbtnrav", "\f\b\t\n\r\a\v", strict=True):
        eaten = eaten.replace("\\" + letter, sign)
    assert eaten != latex
    check_text(latex)
    with pytest.raises(Unusable, match=r"is left of LaTeX written with single backslashes"):
        check_text(eaten)


@pytest.mark.parametrize(
    "text",
    [
        "x\ty\n1\t2", "a table:\tan apple\t3", "$x$ is\n\tan integer", "one\nequals two", "end of page\f\nnext page",
        "race\f race", "We know\nnot $x$", "a\r\nb", "a\rright angle", "so $y$\nneq", "\ttotal $5$", "\textra $5$",
        "$a$\nu = 3", "$a$\nexists b",
    ],
)  # fmt: skip
def test_tabs_and_line_breaks_of_ordinary_text_are_left_alone(text: str) -> None:
    check_text(text)


def test_values_of_other_types_are_named() -> None:
    for read, value, words in [
        (text_of, 3, "of type int, not a string"),
        (text_of, [{"role": "user", "content": [{"type": "image_url"}]}], "an image"),
        (answer_of, True, "of type bool"),
        (answer_of, {"value": "3"}, "is an object with value: name one of its entries"),
        (answer_of, [["3"]], "of type list"),
    ]:
        with pytest.raises(Unusable, match=words):
            read(value)
    assert answer_of(["2", 3, None]) == "2, 3" and answer_of([]) is None
    assert answer_of(10**20) == answer_of(1e20) == "1" + "0" * 20
    assert text_of('[{"role": "user", "content": "Why?"}]') == "Why?"
    assert plain({1: (float("nan"), float("inf"), b"x")}) == {"1": [None, "inf", "b'x'"]}
