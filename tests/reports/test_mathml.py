"""Formulas become MathML; what cannot be read, or would do more than show itself, stays source text."""

from __future__ import annotations

import time
from html import unescape
from html.parser import HTMLParser

import pytest

from tasks.reports.mathml import MAX_DEPTH, MAX_FORMULA, Typesetter, typeset


class Seen(HTMLParser):
    """The elements with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("Let $x<y$.", "Let <math><mrow><mi>x</mi><mo>&lt;</mo><mi>y</mi></mrow></math>."),
        (r"\(a_1\)", "<math><mrow><msub><mi>a</mi><mn>1</mn></msub></mrow></math>"),
        (
            r"$$\frac{1}{2}$$",
            '<math display="block"><mrow><mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac></mrow></math>',
        ),
        (r"\[7\]", '<math display="block"><mrow><mn>7</mn></mrow></math>'),
        ("It costs $5 and then $10.", "It costs $5 and then $10."),
        (r"A price of \$5 and \$6", r"A price of \$5 and \$6"),
        ("$a\n\nb$", "$a\n\nb$"),
        (r"$\foo{x}$ and $\frac{$", r"$\foo{x}$ and $\frac{$"),
    ],
)
def test_a_text_with_formulas(text: str, html: str) -> None:
    assert Typesetter().text(text) == html


def test_an_answer_is_latex_without_delimiters() -> None:
    setter = Typesetter()
    assert setter.answer("x^2") == "<math><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math>"
    assert setter.answer("25 apples") == "25 apples" and setter.answer("<b>") == "&lt;b&gt;"
    assert setter.answer(r"\frac{") == r"\frac{"


HOSTILE = [
    r"$\href{javascript:alert(1)}{x}$",
    r"$\text{<img src=x onerror=alert(1)>}$",
    r"$\text{&lt;script&gt;alert(1)&lt;/script&gt;}$",
    r"$\class{a}{b}$ $\style{position:fixed}{b}$ $\cssId{x}{y}$",
    r"$\color{red;background:url(x)}{b}$ $\textcolor{white}{b}$",
    r"$\unicode{x3c}$ $\operatorname{<script>}$ $\mathrm{</math><script>}$",
    r"$x\hspace{999em}y$ $\hspace{-9em}z$ $\rule{99em}{99em}$",
    r"$\phantom{hidden}$ $\smash{x}$ $\llap{x}$",
    "$\\text{a\u202eb}$ \u2066 $\u202e$",
    r"$\begin{array}{onclick=alert(1)}1\end{array}$",
    "</script><script>alert(1)</script>$<$ <!-- end of results -->",
    r"$\newcommand{\a}{bb}\newcommand{\b}{\a\a}\b$ $\def\x{y}\x$",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_formula_leaves_only_harmless_elements_and_attributes(text: str) -> None:
    html = str(Typesetter().text(text))
    seen = Seen(html)
    assert {tag for tag, _ in seen.elements} <= set(
        "math mrow mi mn mo mtext mspace mfrac msqrt msub msup munder mover mtable mtr mtd mstyle mpadded menclose".split()
    )
    names = {name for _, attributes in seen.elements for name, _ in attributes}
    assert names <= {"display", "stretchy", "fence", "form", "columnalign", "width", "accent", "mathvariant"}
    widths = [value or "" for _, attributes in seen.elements for name, value in attributes if name == "width"]
    assert all(value[0] in "01234." for value in widths)
    assert not {"\u202e", "\u2066"} & set(unescape(html))
    if "hidden" in text:
        assert r"\phantom{hidden}" in seen.text


@pytest.mark.parametrize(
    "source",
    [
        "{" * 13 + "}" * 13,
        r"\left(" * 13 + r"\right)" * 13,
        "x" * (MAX_FORMULA + 1),
        r"\sqrt" * 100,
        "^" * 500,
        "_" * 500,
        r"\begin{matrix}" * 20,
    ],
)
def test_a_formula_that_is_too_long_too_deep_or_malformed_stays_source(source: str) -> None:
    assert typeset(source) is None
    assert typeset("{" * MAX_DEPTH + "x" + "}" * MAX_DEPTH) is not None


@pytest.mark.parametrize(
    "piece", ["$", "\\[", "\\(", "\\boxed{", "\\boxed{{}", "$\\", "$a", "x_1 $", "$" + "x" * 600 + "$ "]
)
def test_the_work_for_a_text_is_bounded(piece: str) -> None:
    text = (piece * 200_000)[:200_000]
    start = time.process_time()
    Typesetter().text(text)
    assert (
        time.process_time() - start < 20
    )  # 0.3 s on a quiet machine; to scan the rest again at each sign takes minutes


def test_each_formula_is_converted_once_and_the_budget_ends_the_work() -> None:
    setter = Typesetter(budget=1)
    assert (
        setter.text("$a$ $a$ $b$")
        == "<math><mrow><mi>a</mi></mrow></math> <math><mrow><mi>a</mi></mrow></math> $b$"
    )
