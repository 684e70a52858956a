"""The nearest templates against a comparison of all pairs."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tasks.problems.compared import Compared
from tasks.problems.neighbours import nearest

WORDS = (
    "a train leaves the station at and travels {n} km in {n} hours how far does it go before {v} noon".split()
)


def text(rng: random.Random) -> str:
    words = [rng.choice(WORDS) for _ in range(rng.randint(3, 14))]
    return " ".join(word.format(n=rng.randint(1, 99), v=rng.choice("xyz")) for word in words)


def compared_pairwise(
    texts: list[str], against: list[str], count: int, threshold: float
) -> list[list[tuple[int, float]]]:
    """All pairs, each by its sets of shingles."""

    def shingles(listed: list[str]) -> list[set[int]]:
        found = Compared.of(listed, 2).templates
        ends = [int(one) for one in found.indptr]
        indices = [int(one) for one in found.indices]
        return [set(indices[low:high]) for low, high in pairwise(ends)]

    own, other = shingles(texts), shingles(against)
    result = []
    for row in own:
        similar = [(len(row & one) / max(1, len(row | one)), place) for place, one in enumerate(other)]
        chosen = sorted(((-value, place) for value, place in similar if value >= threshold))[:count]
        result.append([(place, -value) for value, place in chosen])
    return result


@pytest.mark.parametrize(("count", "threshold"), [(1, 0.05), (3, 0.2), (50, 0.01)])
def test_the_nearest_are_those_of_all_pairs(count: int, threshold: float) -> None:
    rng = random.Random(count)
    texts, against = [text(rng) for _ in range(620)], [text(rng) for _ in range(30)]
    found = nearest(texts, against, count=count, threshold=threshold, ngram=2)
    expected = compared_pairwise(texts, against, count, threshold)
    assert [[place for place, _ in row] for row in found] == [[place for place, _ in row] for row in expected]
    assert [value for row in found for _, value in row] == pytest.approx(
        [value for row in expected for _, value in row]
    )
    assert any(found) and (count > 1 or not all(found))


def test_without_texts_or_common_words_there_is_no_neighbour() -> None:
    options = {"count": 2, "threshold": 0.1, "ngram": 3}
    assert nearest([], ["How many?"], **options) == []  # type: ignore[arg-type]
    assert nearest(["How many apples?"], [], **options) == [[]]  # type: ignore[arg-type]
    assert nearest(["How many apples are left?"], ["Trains travel very fast today."], **options) == [[]]  # type: ignore[arg-type]


def test_other_numbers_and_letters_make_no_difference() -> None:
    one, other = "Find x if 3x + 4 = 19 and x is positive.", "Find y if 7y + 2 = 51 and y is positive."
    [[(place, similarity)]] = nearest(
        [one], ["Unrelated words only, and no formula.", other], count=1, threshold=0.5, ngram=3
    )
    assert (place, similarity) == (1, 1.0)
