"""The information of words: hand-computed from counts, and what the shipped table says about common phrases."""

from __future__ import annotations

from math import log2
from pathlib import Path

import pytest

from tasks.problems.reference import Reference, reference
from tasks.problems.tokens import tokenise
from tasks.problems.wording import comparable

TEXTS = ["find the sum", "find the sum", "find the area", "what area"]


def bits(known: Reference, text: str) -> list[float]:
    return known.information(comparable(tokenise([text])).template).tolist()


def test_the_information_of_a_word_is_that_of_the_longest_known_context() -> None:
    known, penalty = Reference.of(TEXTS, at_least=2), log2(2.5)
    # find: 3 of 4 texts; the: always after find; sum: 2 of 3 after "find the"
    expected = [log2(4 / 3) + 2 * penalty, 0 + penalty, log2(3 / 2)]
    assert bits(known, "find the sum") == pytest.approx(expected)
    # "the area" is in one text only: area by itself, in 2 of 4
    assert bits(known, "the area")[1] == pytest.approx(log2(4 / 2) + 2 * penalty)
    assert bits(known, "walnuts") == pytest.approx([log2(4) + 3 * penalty])
    assert Reference.of([], at_least=1).information(comparable(tokenise(["walnuts"])).template).tolist() == [
        pytest.approx(3 * penalty)
    ]


def test_a_text_counts_once_and_numbers_and_letters_are_masked() -> None:
    known = Reference.of(["7 eggs and 8 eggs, x eggs", "9 eggs"], at_least=2)
    assert bits(known, "12 eggs")[1] == pytest.approx(log2(2.5))  # every number is followed by eggs
    words = comparable(tokenise(["12 eggs", "egg"])).template
    assert known.rarity(words).tolist() == [0.0, 0.0, 0.0]
    assert known.frequencies(words, 2).tolist() == [0, 2, 0]


def test_a_table_is_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    known = Reference.of(TEXTS, at_least=1)
    known.save(tmp_path / "table.npz")
    again = Reference.load(tmp_path / "table.npz")
    assert again.texts == 4 and bits(again, "what sum") == bits(known, "what sum")
    for one, other in zip([*known.hashes, *known.counts], [*again.hashes, *again.counts], strict=True):
        assert one.dtype == other.dtype and one.tolist() == other.tolist()


def test_the_shipped_table_knows_the_phrases_of_contests() -> None:
    phrase = "can be expressed as m/n, where m and n are relatively prime positive integers. Find m+n."
    story = (
        "Gertrud paints eleven lanterns for the harbour festival while two geese quarrel over a mouldy bun."
    )
    per_word = {text: sum(bits(reference(), text)) / len(bits(reference(), text)) for text in (phrase, story)}
    assert per_word[phrase] < 2 and per_word[story] > 6
    assert reference().texts > 10_000 and sum(one.nbytes for one in reference().hashes) < 500_000
