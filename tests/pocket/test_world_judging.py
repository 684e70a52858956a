"""Training material of the judge: faulty problems, and pairs of answers."""

from __future__ import annotations

import random
import re
from fractions import Fraction

import pytest

from pocket.world import CRITERIA, TIERS, break_problem, equivalence_pair, evolve, oracle, problem
from pocket.world.equivalence import near_miss, written
from pocket.world.values import Interval, Pair, Polynomial, canonical

TEXTS = [problem(21, TIERS[index % 4], index).text for index in range(80)]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_most_problems_can_be_broken_and_the_oracle_rejects_the_result(criterion: str) -> None:
    rng = random.Random(criterion)
    broken = [break_problem(text, criterion, rng) for text in TEXTS]
    found = [new for new in broken if new is not None]
    assert len(found) >= 0.9 * len(TEXTS)
    assert all(oracle(new) is None for new in found)
    assert len(set(found)) > 0.95 * len(found)


def test_evolved_problems_can_be_broken_too() -> None:
    rng = random.Random(2)
    for text in TEXTS[:20]:
        evolved = evolve(text, "harder", rng)
        assert evolved is not None
        assert break_problem(evolved, "clear", rng) is not None


def test_each_criterion_is_broken_in_several_ways() -> None:
    text = "Let a = 3. Mia has 12 shells. Mia gives away a. How many shells does Mia have now?"
    seen = {
        criterion: {break_problem(text, criterion, random.Random(seed)) for seed in range(60)}
        for criterion in CRITERIA
    }
    assert all(len(versions) >= 8 for versions in seen.values())
    assert any(re.search(r"Mia has (some|a few|several|many) shells", new or "") for new in seen["complete"])
    assert "Mia has 12 shells. Mia gives away a. How many shells does Mia have now?" in seen["complete"]
    assert any(re.search(r"Mia gives away \d\d\.", new or "") for new in seen["consistent"])
    assert "Let a = 3. Mia has 12 shells. Mia gives away a." in seen["single_answer"]
    assert any(" 9." in (new or "") for new in seen["nontrivial"])


def test_a_given_away_answer_is_correct_and_the_problem_unchanged() -> None:
    text = "What is 3/4 + 1/6?"
    versions = {break_problem(text, "nontrivial", random.Random(seed)) for seed in range(40)}
    given = [new for new in versions if new and "11/12" in new]
    assert given
    assert all(text in new for new in given)


def test_only_sound_texts_and_known_criteria_are_accepted() -> None:
    assert break_problem("What is love?", "clear", random.Random(0)) is None
    with pytest.raises(ValueError, match="single_answer"):
        break_problem(TEXTS[0], "beautiful", random.Random(0))


def test_half_of_the_pairs_are_equivalent_and_the_label_follows_the_canonical_forms() -> None:
    rng = random.Random(4)
    pairs = [equivalence_pair(rng) for _ in range(2000)]
    assert 0.46 < sum(pair.equivalent for pair in pairs) / len(pairs) < 0.54
    assert all(pair.equivalent == (pair.first_canonical == pair.second_canonical) for pair in pairs)
    assert all(pair.first != pair.second for pair in pairs)
    assert not any("%" in pair.first + pair.second for pair in pairs)
    assert len({(pair.first, pair.second) for pair in pairs}) > 1900


NUMERIC = re.compile(r"\$?(?:x = )?(-?\d+(?:\.\d+)?)(?:/(\d+))?\$?|\\frac\{(\d+)\}\{(\d+)\}")


def test_written_numbers_have_the_value_of_their_canonical_form() -> None:
    rng = random.Random(5)
    checked = 0
    for _ in range(1500):
        pair = equivalence_pair(rng)
        for text, canonical_form in (
            (pair.first, pair.first_canonical),
            (pair.second, pair.second_canonical),
        ):
            found = NUMERIC.fullmatch(text)
            if found is None:
                continue
            top, bottom = (found[1], found[2]) if found[1] else (found[3], found[4])
            assert Fraction(top) / int(bottom or 1) == Fraction(canonical_form), text
            checked += 1
    assert checked > 750


def test_factored_forms_have_the_value_of_their_polynomial() -> None:
    rng = random.Random(6)
    checked = 0
    for _ in range(200):
        a, b = rng.randint(1, 12), rng.choice([-5, -2, 3, 7])
        value = Polynomial(square=1, linear=a + b, constant=a * b)
        found = re.fullmatch(r"\(x ([+-]) (\d+)\)\(x ([+-]) (\d+)\)", written(value, rng))
        if found is not None:
            roots = sorted(int(found[i] + found[i + 1]) for i in (1, 3))
            assert roots == sorted((a, b))
            checked += 1
    assert checked > 30


@pytest.mark.parametrize(
    ("value", "forms"),
    [
        (Pair(first=7, second=4), {"(7, 4)", "x = 7, y = 4", "(7,4)"}),
        (Interval(low=3, high=None, low_closed=True), {"[3, \\infty)", "x \\geq 3", "x >= 3"}),
        (Interval(low=None, high=4), {"(-\\infty, 4)", "x < 4"}),
        (12, {"twelve", "12 apples", "$12$", "x = 12", "12 cm"}),
        (1500, {"1,500", "1500"}),
        (Fraction(3, 4), {"0.75", "3/4", "6/8", "\\frac{9}{12}"}),
    ],
)
def test_a_value_is_written_in_the_expected_forms_and_never_like_its_near_miss(
    value, forms: set[str]
) -> None:
    rng = random.Random(7)
    seen = {written(value, rng) for _ in range(600)}
    assert forms <= seen
    for _ in range(50):
        other = near_miss(value, rng)
        assert canonical(other) != canonical(value)
        assert written(other, rng) not in seen
