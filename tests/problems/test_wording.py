"""Words and templates of problem texts: masks, renamed letters, and runs of words."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.problems.tokens import tokenise
from tasks.problems.wording import Comparable, comparable, stem, template, value


def of(*texts: str) -> Comparable:
    return comparable(tokenise(texts))


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
        ("3x + 7y = 21", "# @ + # @ = #"),
        ("the remainder when $301^4$ is divided by 10,000", "the remainder when # ^ # is divided by #"),
        ("let a and b be sides of a triangle", "let @ and @ be side of a triangle"),
    ],
)
def test_a_template_masks_letters_and_every_run_of_numbers(text: str, expected: str) -> None:
    assert template(text) == expected.split()


def test_the_texts_of_a_batch_are_kept_separate() -> None:
    found = of("a", "5 eggs", "6", "7 hens", "", "one hundred", "and 5")
    # "a | 5", "6 | 7" and "hundred | and 5" are adjacent only across texts
    assert found.words.rows.tolist() == [0, 1, 1, 2, 3, 3, 5, 5, 6, 6]
    assert found.template.rows.tolist() == [0, 1, 1, 2, 3, 3, 5, 6, 6]
    assert found.places.tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8]
    assert found.names(3) == ["7", "hens"] and found.names(4) == []


def test_windows_stay_within_a_text_and_are_equal_exactly_if_their_words_are() -> None:
    words = of("both cats dogs", "both cats", "cats dogs both cats").words
    starts, values = words.windows(2)
    assert starts.tolist() == [0, 1, 3, 5, 6, 7]  # bc cd | bc | cd db bc
    groups = np.unique(values, return_inverse=True)[1].tolist()
    assert groups[0] == groups[2] == groups[5] and groups[1] == groups[3]
    assert len(set(groups)) == 3
    assert of("both").words.windows(2)[0].tolist() == []


def same(one: str, other: str) -> bool:
    """Whether two texts of as many words are equal as runs of words."""
    words = of(one, other).words
    starts, values = words.windows(len(words.rows) // 2)
    assert starts.tolist() == [0, len(words.rows) // 2]
    return bool(values[0] == values[1])


def test_a_run_is_equal_after_renaming_letters_one_to_one() -> None:
    assert same("$a + b = c$", "$p + q = r$") and same("$ab + ba$", r"$\alpha\beta + \beta\alpha$")
    assert same("sides A and a", "sides P and q")
    assert not same("$a + b = a$", "$p + q = r$") and not same("$a + b = c$", "$p + q = p$")
    assert not same("$a + b = b$", "$p + q = p$") and not same("$x + 1$", "$x + 2$")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("pqrs"), min_size=1, max_size=9), st.integers(1, 6), st.integers(0, 2**32))
def test_runs_of_letters_are_equal_exactly_if_a_renaming_exists(
    letters: list[str], size: int, seed: int
) -> None:
    def pattern(run: list[str]) -> list[int]:
        return [run.index(letter) for letter in run]

    starts, values = of(" + ".join(letters)).words.windows(2 * size - 1)
    runs = [letters[start // 2 : start // 2 + size] for start in starts.tolist() if start % 2 == 0]
    hashes = values[starts % 2 == 0].tolist()
    for i, one in enumerate(runs):
        for j, other in enumerate(runs):
            assert (hashes[i] == hashes[j]) == (pattern(one) == pattern(other))
    renamed = dict(zip("pqrs", random.Random(seed).sample("uvwxyz", 4), strict=True))
    again = of(" + ".join(renamed[letter] for letter in letters)).words.windows(2 * size - 1)[1]
    assert again.tolist() == values.tolist()


def test_numbers_are_compared_by_value_in_any_order() -> None:
    found = of("three of 16, twice, half", "0.50 of 2, 16.0 and 3", "3, 3, 16, 2, 1/2", "no number", "7")
    hashes, bits = found.numbers(5)
    assert hashes[0] == hashes[1] and len(set(hashes.tolist())) == 4
    # 3 16 2 0.5: six digits; 3 16 2 1 of the third text: five
    assert bits.tolist() == pytest.approx([6 * np.log2(10), 6 * np.log2(10), 5 * np.log2(10), 0, np.log2(10)])
    assert (value("forty"), value("3rd"), value("100")) == ("40", "3rd", "100")


def test_a_stem_has_no_plural_ending() -> None:
    assert [stem(word) for word in ("eggs", "gas", "glass", "bus", "is")] == [
        "egg",
        "gas",
        "glass",
        "bus",
        "is",
    ]


def test_texts_without_a_word_have_no_words() -> None:
    found = of("", "...")
    assert len(found.words.hashes) == len(found.template.hashes) == 0
