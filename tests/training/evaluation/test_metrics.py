"""Accuracies against hand-computed values and brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.metrics import avg_at_n, gain, maj_at_n, mean_estimate, pass_at_k


def test_avg_at_n_weights_problems_equally() -> None:
    assert avg_at_n([[True, False], [True, True, True, True]]) == 0.75


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(1, 5))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(grades: list[list[bool]], k: int) -> None:
    brute = np.mean([np.mean([any(subset) for subset in combinations(row, k)]) for row in grades])
    assert pass_at_k(grades, k) == pytest.approx(float(brute))


@pytest.mark.parametrize(
    ("labels", "correct", "expected"),
    [
        ([0, 0, 1], [True, True, False], 1.0),
        ([0, 1, 1], [True, False, False], 0.0),
        ([0, 1, 1, 0], [True, False, False, True], 1.0),  # a tie goes to the first
        ([1, 0, 0, 1], [False, True, True, False], 0.0),
        ([-1, -1, 0], [False, False, True], 0.0),  # no answer wins the vote and is wrong
        ([0, -1], [True, False], 1.0),
    ],
)
def test_samples_without_an_answer_take_part_in_the_vote(
    labels: list[int], correct: list[bool], expected: float
) -> None:
    assert maj_at_n([labels], [correct]) == expected


def test_the_interval_has_about_its_nominal_coverage() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        estimate = mean_estimate((rng.random(80) < 0.3).astype(float).tolist(), resamples=400, seed=seed)
        inside += estimate.low <= 0.3 <= estimate.high
    assert 0.88 <= inside / 200 <= 0.99


def test_a_gain_is_paired() -> None:
    before = [[False] * 4, [True] * 4] * 20
    after = [[True, False, False, False], [True] * 4] * 20
    estimate = gain(before, after)
    assert estimate.value == pytest.approx(0.125)
    assert 0.08 < estimate.low < estimate.high < 0.17
    assert estimate.n == 40


@pytest.mark.parametrize("grades", [[], [[]], [[True], []]])
def test_no_samples_are_an_error(grades: list[list[bool]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        avg_at_n(grades)


def test_too_few_samples_for_k_are_an_error() -> None:
    with pytest.raises(ValueError, match="pass@3 cannot be computed"):
        pass_at_k([[True, False]], 3)


def test_a_mean_of_no_values_or_nan_is_an_error() -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_estimate([])
    with pytest.raises(ValueError, match="finite"):
        mean_estimate([0.1, float("nan")])
