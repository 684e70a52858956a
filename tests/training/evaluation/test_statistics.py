"""Statistics of evaluations against closed forms, enumeration and scipy."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.scores import estimate, lengths, powers, scores
from training.evaluation.statistics import (
    average_values,
    compare,
    detectable,
    majority_values,
    mean_stable_values,
    pass_values,
    sign_test,
    spread,
    stable_values,
    wilson,
)

GRADES = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4).map(np.array)


def enumerated(grades: np.ndarray, k: int, needed: int) -> list[float]:
    """The share of the subsets of k samples with at least `needed` correct ones, by problem."""
    return [
        float(np.mean([sum(subset) >= needed for subset in combinations(row.tolist(), k)])) for row in grades
    ]


@settings(max_examples=40, deadline=None)
@given(GRADES, st.integers(1, 6), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_curves_are_shares_of_all_subsets(grades: np.ndarray, k: int, tau: float) -> None:
    assert pass_values(grades, k).tolist() == pytest.approx(enumerated(grades, k, 1))
    needed = next(count for count in range(1, k + 1) if count >= tau * k)
    assert stable_values(grades, k, tau).tolist() == pytest.approx(enumerated(grades, k, needed))
    if k >= 2:
        summed = np.sum([enumerated(grades, k, count) for count in range(-(-k // 2) + 1, k + 1)], axis=0)
        assert mean_stable_values(grades, k).tolist() == pytest.approx((2 / k * summed).tolist())


def test_g_pass_is_the_tail_of_scipys_hypergeometric_distribution_and_pass_its_first_term() -> None:
    n, k = 128, 64
    grades = np.array([[place < correct for place in range(n)] for correct in (0, 1, 5, 40, 64, 127, 128)])
    counts = grades.sum(axis=1)
    tail = scipy.stats.hypergeom.sf(47, n, counts, k)  # at least 48 of 64: tau = 0.75
    assert stable_values(grades, k, 0.75) == pytest.approx(tail, abs=1e-12)
    assert pass_values(grades, k) == pytest.approx(scipy.stats.hypergeom.sf(0, n, counts, k), abs=1e-12)
    assert pass_values(grades, 1) == pytest.approx(average_values(grades))
    assert pass_values(grades, 128).tolist() == (counts > 0).tolist()
    assert stable_values(grades, 128, 1.0).tolist() == (counts == 128).tolist()


def test_a_score_does_not_fall_with_the_number_of_samples() -> None:
    rng = np.random.default_rng(0)
    grades = rng.random((50, 16)) < 0.2
    curve = [pass_values(grades, k).mean() for k in powers(16)]
    assert powers(16) == [1, 2, 4, 8, 16] and powers(12) == [1, 2, 4, 8, 12] and powers(1) == [1]
    assert curve == sorted(curve) and curve[0] == pytest.approx(grades.mean())


@pytest.mark.parametrize(("k", "tau"), [(0, 0.5), (7, 0.5), (2, 1.5), (2, -0.1)])
def test_k_and_tau_out_of_range_are_errors(k: int, tau: float) -> None:
    with pytest.raises(ValueError, match="needs"):
        stable_values(np.ones((1, 6), dtype=bool), k, tau)


def test_the_majority_counts_invalid_answers_as_one_cluster_and_ties_go_to_the_first() -> None:
    labels = np.array([[0, 1, 1, 0], [-1, -1, 0, 1], [0, -1, -1, 0]])
    correct = np.array([[True, False, False, True], [False, False, True, False], [True, False, False, True]])
    assert majority_values(labels, correct).tolist() == [1.0, 0.0, 1.0]


# --- intervals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("successes", "n"), [(0, 30), (1, 30), (17, 30), (30, 30), (420, 500)])
def test_wilsons_interval_is_that_of_scipy(successes: int, n: int) -> None:
    found = wilson(successes, n)
    expected = scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.value, found.n) == (successes / n, n)
    with pytest.raises(ValueError, match="no share"):
        wilson(1, 0)


def test_the_bootstrap_keeps_the_samples_of_a_problem_together() -> None:
    """16 copies of one sample per problem carry no more information than the one: the interval stays as wide."""
    single = np.array([[place % 3 == 0] for place in range(60)])
    repeated = np.repeat(single, 16, axis=1)
    found = estimate(average_values(repeated), 16)
    naive = wilson(int(repeated.sum()), repeated.size)
    assert found["interval"] == "bootstrap"
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * (2 / 9 / 60) ** 0.5, rel=0.1)
    assert (naive.high - naive.low) * 3 < found["high"] - found["low"]


def test_seeds_have_the_sample_standard_deviation() -> None:
    assert spread([0.75, 0.78, 0.84]) == (
        (0.75, 0.78, 0.84),
        pytest.approx(0.79),
        pytest.approx(0.0458257569),
    )
    assert spread([0.5]).deviation is None
    with pytest.raises(ValueError, match="at least one"):
        spread([])


# --- comparison --------------------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_sign_test_is_scipys_exact_binomial_test(better: int, worse: int) -> None:
    expected = scipy.stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert sign_test(better, worse) == pytest.approx(expected)


def test_a_paired_comparison() -> None:
    first = np.array([0.0] * 60 + [1.0] * 40)
    second = np.array([1.0] * 12 + [0.0] * 48 + [1.0] * 37 + [0.0] * 3)
    found = compare(first, second)
    assert (found.first, found.second, found.better, found.worse, found.test) == (0.4, 0.49, 12, 3, "McNemar")
    assert found.difference.value == pytest.approx(0.09)
    assert found.p == pytest.approx(2 * sum(comb(15, count) for count in range(4)) / 2**15)
    # the differences are +1 twelve times and -1 three times of 100, their squares add up to 15
    deviation = ((15 - 100 * 0.09**2) / 99) ** 0.5
    assert found.detectable == pytest.approx((1.959963985 + 0.841621234) * deviation / 10)
    assert found.difference.low > 0 and found.difference.high < 0.18
    averaged = compare(np.array([0.25, 0.5, 1.0]), np.array([0.5, 0.5, 0.75]))
    assert (averaged.test, averaged.better, averaged.worse, averaged.p) == ("sign test", 1, 1, 1.0)
    with pytest.raises(ValueError, match="paired"):
        compare(first, second[:5])


def test_pairing_finds_what_two_separate_intervals_do_not() -> None:
    rng = np.random.default_rng(1)
    difficulty = rng.random(200)
    second = np.clip(difficulty + 0.03 + 0.02 * rng.standard_normal(200), 0, 1)
    apart = wilson(round(second.sum()), 200).low - wilson(round(difficulty.sum()), 200).high
    assert apart < 0 < compare(difficulty, second).difference.low


def test_the_detectable_effect_is_found_in_eight_of_ten_trials() -> None:
    rng = np.random.default_rng(2)
    differences = rng.standard_normal(400)
    effect = detectable(differences)
    assert effect is not None and detectable(differences[:1]) is None
    limit = 1.959963985 * np.std(differences, ddof=1) / 20
    trials = effect + np.std(differences, ddof=1) / 20 * rng.standard_normal(20_000)
    assert np.mean(np.abs(trials) > limit) == pytest.approx(0.8, abs=0.01)


# --- together ----------------------------------------------------------------------------------------------------


def test_scores_of_three_seeds() -> None:
    correct = np.array(
        [[[True, False], [True, True], [False, False]], [[False, False], [True, False], [True, True]]]
    )
    labels = np.array([[[0, 1], [0, 0], [1, -1]], [[-1, -1], [0, 1], [0, 0]]])
    found = scores(correct, labels)
    assert found["avg@2"]["value"] == pytest.approx(6 / 12) and found["avg@2"]["n"] == 2
    assert found["pass@2"]["value"] == pytest.approx(1 - comb(3, 2) / comb(6, 2))
    assert found["seeds"]["avg@2"]["values"] == (0.25, 0.75, 0.5)
    assert found["seeds"]["maj@2"]["values"] == (0.5, 1.0, 0.5)
    assert found["maj@2"]["value"] == pytest.approx(2 / 3)
    assert set(scores(correct[:, :1, :1], labels[:, :1, :1])) == {"pass@1"}
    assert scores(correct[:, :1, :1], labels[:, :1, :1])["pass@1"]["interval"] == "wilson"


def test_lengths_of_no_response() -> None:
    assert lengths([])["mean"] is None
    assert lengths([1, 2, 3, 10]) == {
        "responses": 4,
        "total": 16,
        "mean": 4.0,
        "median": 2.5,
        "p95": pytest.approx(8.95),
        "max": 10,
    }
