"""The normal form of problem texts: what is layout and what is not, on hand-written and on generated texts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.problems.tokens import Kind, Vocabulary, evidence, tokenise, without_code


def names(text: str) -> str:
    return " ".join(tokenise([text]).names())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How many\n apples are left?", "how many apples are left"),
        (r"Let $x\,=\,\dfrac{1}{2}\quad$ and $\left(y\right)$.", "let x = 1 / 2 and y"),
        (r"$\text{Area} \leq \sqrt{5} \cdot r^{2}$", "area <= sqrt 5 * r ^ 2"),
        ("Area ≤ √5 · r²", "area <= sqrt 5 * r ^ 2"),
        (r"It costs \$1,250 or 1{,}250 dollars, 15\% more", "it costs 1250 or 1250 dollars 15 percent more"),
        (r"the 13^{\text{th}} root, the 13th root", "the 13th root the 13th root"),
        ("1,2345 and 3.14, .5", "1 2345 and 3.14 0.5"),  # no thousands separator before four digits
        ("½ of it", "1 / 2 of it"),
        (r"$2^{n+1}$ is not $2^n+1$", "2 ^ ( n + 1 ) is not 2 ^ n + 1"),
        (r"\frac{a+b}{\frac{1}{2}+c}, \frac12, \frac\pi2", "( a + b ) / ( 1 / 2 + c ) 1 / 2 pi / 2"),
        (r"\( n \) and $n!$; how much, Ann!", "n and n ! how much ann"),
        (r"$ \angle B E K \equal{} 45^\circ$, ∠BEK = 45°", "angle B E K = 45 degree angle B E K = 45 degree"),
        (r"$\overline{A B}$ is $\overline{AB}$, not $AB$", r"\overline A B is \overline A B not A B"),
        ("an 8-mile walk, third-grade, 5-3, of $-3$, ages 3–5", "an 8 mile walk third grade 5 - 3 of - 3 ages 3 - 5"),
        ("**Find** 2*x and $2 \\times x$", "find 2 * x and 2 * x"),
        (r"$ax+qr=\alpha\beta$, αβ", r"a x + q r = \alpha \beta \alpha \beta"),
        (r"$ABCD$, $A B C D$, abcd but HOUSES", "A B C D A B C D a b c d but houses"),
        ("THE WHOLE TEXT", "the whole text"),
        ("Janet’s ducks don't", "janets ducks dont"),
        ("求x的值", "求 x 的 值"),
        (r"\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}", "1 2 3 4"),
        ("", ""),
        ("?!", ""),
    ],
)  # fmt: skip
def test_tokens_of_hand_written_texts(text: str, expected: str) -> None:
    assert names(text) == expected


def test_code_is_cut_where_it_is_closed() -> None:
    assert without_code("See [asy] draw(A--B); [/asy] and ```x = 1``` here").split() == ["See", "and", "here"]
    assert without_code(
        r"a \begin{tikzpicture} \draw \end{tikzpicture} b ![c](d.png) http://e/f"
    ).split() == ["a", "b"]
    assert without_code("an [asy] without an end") == "an [asy] without an end"


def test_a_sentence_on_the_form_of_the_answer_is_no_evidence() -> None:
    text = r"Find it. Enter your answer in the form \[Ax + By = 0,\] where $A > 0.5$. How long is it? Express your answer in cm."
    assert evidence(text).split() == ["Find", "it.", "How", "long", "is", "it?"]
    assert evidence("Give your answer a thought, she said") == " "


def test_a_vocabulary_is_shared_by_batches() -> None:
    vocabulary = Vocabulary()
    first, second = tokenise(["x plus y"], vocabulary), tokenise(["y plus X"], vocabulary)
    assert (
        first.numbers.tolist()[::2] != second.numbers.tolist()[::2] and first.numbers[1] == second.numbers[1]
    )
    assert first.hashes()[0] == second.hashes()[2]  # the same letter but for its case
    assert [Kind(kind) for kind in first.kinds.tolist()] == [Kind.LETTER, Kind.WORD, Kind.LETTER]


# --- properties --------------------------------------------------------------------------------------------------

WORDS = ["Find", "the", "triangle", "where", "apples", "of", "is", "Tom", "positive", "integers", "a"]
ATOMS = st.sampled_from(["x", "y", "n", "3", "12", "1000", "0.5", r"\alpha", r"\pi"])
CAPITALS = st.sampled_from(["A", "AB", "ABC", "PQRS"])


@st.composite
def formulas(draw: st.DrawFn, depth: int = 2) -> tuple[str, ...]:
    """A formula as a tree: an atom, capitals, or an operation."""
    kind = draw(st.sampled_from(["atom", "capitals", "sum", "fraction", "power", "compare", "product"]))
    if depth == 0 or kind == "atom":
        return ("atom", draw(ATOMS))
    if kind == "capitals":
        return ("capitals", draw(CAPITALS))
    return (kind, draw(formulas(depth=depth - 1)), draw(formulas(depth=depth - 1)))  # pyright: ignore[reportReturnType]


def plain(tree: tuple[str, ...]) -> str:
    """Set a formula tightly."""
    kind, *parts = tree
    if kind in {"atom", "capitals"}:
        return parts[0] + (" " if parts[0].startswith("\\") else "")
    one, other = (plain(part) for part in parts)  # pyright: ignore[reportArgumentType]
    return {
        "sum": f"{one}+{other}", "fraction": rf"\frac{{{one}}}{{{other}}}", "power": rf"{one}^{{{other}}}",
        "compare": rf"{one}\leq {other}", "product": rf"{one}\cdot {other}",
    }[kind]  # fmt: skip


def loose(tree: tuple[str, ...]) -> str:
    """Set the same formula with spaces, other commands and other delimiters."""
    kind, *parts = tree
    if kind == "atom":
        return {"1000": "1{,}000", "0.5": ".5"}.get(parts[0], f" {parts[0]} ")
    if kind == "capitals":
        return rf"\mathrm{{{' '.join(parts[0])}}}"
    one, other = (loose(part) for part in parts)  # pyright: ignore[reportArgumentType]
    return {
        "sum": f"{one} + \\,{other}", "fraction": rf"\dfrac {{ {one} }} {{{other}}}", "power": rf"{one} ^ {{ {other} }}",
        "compare": rf"{one} ≤ {other}", "product": rf"{one} \times {other}",
    }[kind]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(st.one_of(st.sampled_from(WORDS), formulas()), max_size=8),
    delimiters=st.sampled_from(["$$", r"\(\)", "  "]),
)
def test_layout_makes_no_difference(pieces: list[str | tuple[str, ...]], delimiters: str) -> None:
    half = len(delimiters) // 2
    tight = " ".join(piece if isinstance(piece, str) else f"${plain(piece)}$" for piece in pieces)
    wide = " , ".join(
        piece if isinstance(piece, str) else f"{delimiters[:half]} {loose(piece)} {delimiters[half:]}"
        for piece in pieces
    )
    assert names(tight).lower() == names(f"\n {wide} .").lower()


@settings(max_examples=200, deadline=None)
@given(tree=formulas(), other=formulas())
def test_formulas_that_differ_have_different_tokens(tree: tuple[str, ...], other: tuple[str, ...]) -> None:
    def shown(one: tuple[str, ...]) -> str:
        """Write the tree with a letter for each kind, so that equal strings mean equal trees up to grouping."""
        return plain(one).replace(" ", "")

    if sorted(shown(tree)) != sorted(
        shown(other)
    ):  # other characters, so another formula whatever the grouping
        assert names(f"${plain(tree)}$") != names(f"${plain(other)}$")


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(), max_size=60))
def test_any_text_has_tokens_of_which_each_belongs_to_it(text: str) -> None:
    tokens = tokenise(["", text, "end"])
    assert set(tokens.rows.tolist()) <= {1, 2} and (tokens.rows == 2).sum() == 1
    assert tokens.names()[-1] == "end"


@pytest.mark.parametrize(
    "piece",
    ["[asy]", "```", "![", r"\includegraphics{", r"\begin{asy}", "{", "(", r"\frac{", r"\frac{a}{", "( a ", "a-", "^{", "1,000,",
        "give your answer"],
)  # fmt: skip
def test_the_work_is_linear_in_the_length(piece: str) -> None:
    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        begin = time.process_time()
        tokenise([evidence(text)])
        return time.process_time() - begin

    seconds(1000)
    assert seconds(100_000) < 20 * max(seconds(10_000), 0.02)
