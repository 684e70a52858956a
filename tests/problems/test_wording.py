"""Words and templates: what counts as a word or a number, on hand-written cases."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.problems.wording import formula, template, tokenise, windows, word_hash, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How many\n APPLES are left?", "how many apples are left"),
        (r"Let $x\,=\,\dfrac{1}{2}\quad$ and $\left(y\right)$.", "let x 1 2 and y"),
        (r"$\text{Area} \leq \sqrt{5} \cdot r^{2}$", "area sqrt 5 r 2"),
        ("Area ≤ √5 · r²", "area 5 r 2"),
        (r"It costs \$1,250 or 1{,}250 dollars, 15\% more", "it costs 1250 or 1250 dollars 15 percent more"),
        (r"the 13^{\text{th}} root, the 13th root", "the 13 root the 13th root"),
        ("1,2345 and 3.14", "1 2345 and 3.14"),  # no thousands separator before four digits
        ("½ of it", "1 2 of it"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_words_exclude_case_punctuation_and_latex_layout(text: str, expected: str) -> None:
    assert words(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12 eggs and 7 hens", "# egg and # hen"),
        (r"$\frac{3}{4}$ of 1,000.50", "# of #"),
        ("twenty-five, 25, or one hundred and five", "# or #"),
        ("salt and pepper, a hundred, a dozen, 6 and 7", "salt and pepper # and #"),
        ("an 8-mile walk, a 12-mile walk, a mile", "# mile walk # mile walk a mile"),
        ("the third of two halves, twice", "the # of #"),
        ("the 2nd and the 13th", "the # and the #"),
        ("one hundred and a cat", "# and a cat"),
        ("class glass bus this bias apples", "class glass bus this bia apple"),
        ("$1, 2, 3, \\ldots, 18$", "#"),
        ("3x + 7y = 21", "# x # y #"),
    ],
)
def test_a_template_has_one_mark_for_every_number_or_run_of_numbers(text: str, expected: str) -> None:
    assert template(text) == expected.split()


def test_a_formula_keeps_operators_and_letters_without_numbers_braces_and_layout() -> None:
    assert formula(r"Find $\left(x^{10}\right) - \dfrac{1{,}000}{2.5}\,y$.") == r"find(x^#)-\frac##y"
    assert formula("Find (x^7) - \\frac{3}{41} y") == r"find(x^#)-\frac##y"
    assert formula(r"\leftarrow \tfrac12") == r"\leftarrow\frac#"


def test_the_texts_of_a_batch_are_kept_separate() -> None:
    tokens = tokenise(["a", "5 eggs", "6", "7 hens", "", "one hundred", "and 5"])
    # "a | 5", "6 | 7" and "hundred | and 5" are adjacent only across texts
    assert tokens.rows.tolist() == [0, 1, 1, 2, 3, 3, 5, 5, 6, 6]
    assert tokens.masked_rows.tolist() == [0, 1, 1, 2, 3, 3, 5, 6, 6]
    mark, article, also = word_hash("#"), word_hash("a"), word_hash("and")
    assert tokens.masked.tolist() == [
        article, mark, word_hash("egg"), mark, mark, word_hash("hen"), mark, also, mark
    ]  # fmt: skip


def test_windows_stay_within_a_text_and_are_equal_exactly_if_their_words_are() -> None:
    tokens = tokenise(["b c d", "b c", "c d b c"])
    starts, values = windows(tokens.hashes, tokens.rows, 2)
    assert starts.tolist() == [0, 1, 3, 5, 6, 7]  # bc cd | bc | cd db bc
    groups = np.unique(values, return_inverse=True)[1].tolist()
    assert groups[0] == groups[2] == groups[5] and groups[1] == groups[3]
    assert len(set(groups)) == 3
    assert windows(tokens.hashes[:1], tokens.rows[:1], 2)[0].tolist() == []


def test_texts_without_a_word_have_no_tokens() -> None:
    tokens = tokenise(["", "..."])
    assert len(tokens.hashes) == len(tokens.masked) == 0
