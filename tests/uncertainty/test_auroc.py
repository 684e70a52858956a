from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import binom, mannwhitneyu

from tasks.uncertainty.auroc import aurc, auroc, auroc_gain, auroc_if_defined


def area(scores, marks) -> float:
    """The area under the ROC curve from the U statistic of Mann and Whitney."""
    scores, marks = np.asarray(scores), np.asarray(marks, dtype=bool)
    return mannwhitneyu(scores[marks], scores[~marks]).statistic / (marks.sum() * (~marks).sum())


def test_three_of_four_pairs_in_order_computed_by_hand():
    # positives 0.4 and 0.9, negatives 0.1 and 0.5: 0.4 > 0.1, 0.4 < 0.5, 0.9 > both -> 3/4
    assert auroc([0.4, 0.9, 0.1, 0.5], [True, True, False, False]).value == 0.75


def test_a_tie_counts_one_half_computed_by_hand():
    # positives 1 and 2, negatives 1 and 0: (1,1) half, (1,0), (2,1), (2,0) -> 3.5/4
    assert auroc([1, 2, 1, 0], [True, True, False, False]).value == 0.875


def test_equal_scores_give_one_half():
    result = auroc([0.3] * 10, [True] * 3 + [False] * 7)
    assert (result.value, result.low, result.high, result.n) == (0.5, 0.5, 0.5, 10)


def test_perfect_and_reversed_order_give_one_and_zero():
    assert auroc([1, 2, 3, 4], [False, False, True, True])[:3] == (1.0, 1.0, 1.0)
    assert auroc([1, 2, 3, 4], [True, True, False, False]).value == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_u_statistic_with_and_without_ties(seed: int):
    rng = np.random.default_rng(seed)
    marks = rng.random(300) < 0.3
    continuous = rng.normal(size=300) + marks
    for scores in (continuous, np.round(continuous, 0)):
        assert auroc(list(scores), list(marks), resamples=2).value == pytest.approx(
            area(scores, marks), abs=1e-12
        )


def test_the_interval_contains_the_value_is_reproducible_and_narrows_with_more_rows():
    rng = np.random.default_rng(1)
    marks = rng.random(4000) < 0.4
    scores = rng.normal(size=4000) + marks
    few, many = auroc(list(scores[:200]), list(marks[:200])), auroc(list(scores), list(marks))
    assert few == auroc(list(scores[:200]), list(marks[:200]))
    assert few.low < few.value < few.high and many.low < many.value < many.high
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(20**0.5, rel=0.35)


def test_the_interval_has_about_the_nominal_coverage():
    # normal scores shifted by 1: the true area is Phi(1 / sqrt(2)) = 0.7602
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(150):
        scores = np.concatenate([rng.normal(1, 1, 60), rng.normal(0, 1, 60)])
        result = auroc(list(scores), [True] * 60 + [False] * 60, resamples=200, seed=trial)
        covered += result.low <= 0.7602 <= result.high
    assert 0.88 <= covered / 150 <= 0.99


def test_invalid_input_is_rejected_with_its_row():
    with pytest.raises(ValueError, match="2 scores for 1 labels"):
        auroc([1, 2], [True])
    with pytest.raises(ValueError, match="row 1"):
        auroc([1, float("nan")], [True, False])
    with pytest.raises(ValueError, match="0 of 2 rows are positive"):
        auroc([1, 2], [False, False])
    with pytest.raises(ValueError, match="2 of 2"):
        auroc([1, 2], [True, True])


# --- several members per row -------------------------------------------------------------------------------------


def members(scores: list[float], positives: list[int], totals: list[int]) -> tuple[list[float], list[bool]]:
    """Expand the rows to one row per member."""
    pairs = [
        (score, index < found)
        for score, found, total in zip(scores, positives, totals, strict=True)
        for index in range(total)
    ]
    return [score for score, _ in pairs], [mark for _, mark in pairs]


@pytest.mark.parametrize("seed", range(5))
def test_rows_with_several_members_have_the_area_of_their_members(seed: int):
    rng = np.random.default_rng(seed)
    totals = rng.integers(1, 9, 80)
    positives = rng.binomial(totals, 0.4)
    scores = np.round(rng.normal(size=80) + positives / totals, 1)
    each = members(list(scores), list(positives), list(totals))
    found = auroc(list(scores), list(positives), list(totals), resamples=2)
    assert found.value == pytest.approx(area(*each[:2]), abs=1e-12) and found.n == 80
    risk = aurc(list(scores), list(positives), list(totals), resamples=2).value
    assert risk == pytest.approx(aurc(*each, resamples=2).value, abs=1e-12)


def test_eight_samples_of_one_problem_are_resampled_together():
    rng = np.random.default_rng(3)
    marks = [int(mark) for mark in rng.random(60) < 0.4]
    scores = list(rng.normal(size=60) + marks)
    assert auroc(scores, [8 * mark for mark in marks], [8] * 60) == auroc(scores, marks)


def test_impossible_counts_are_rejected_with_their_row():
    with pytest.raises(ValueError, match="row 1 has 3 positives of 2"):
        auroc([1, 2], [1, 3], [2, 2])
    with pytest.raises(ValueError, match="row 0 has 0 positives of 0"):
        aurc([1, 2], [0, 1], [0, 1])
    with pytest.raises(ValueError, match="no rows"):
        aurc([], [])


# --- differences -------------------------------------------------------------------------------------------------


def test_a_gain_is_the_difference_of_the_areas_and_zero_for_equal_scores():
    rng = np.random.default_rng(5)
    marks = list(rng.random(200) < 0.4)
    good, poor = list(rng.normal(size=200) + 2 * np.asarray(marks)), list(rng.normal(size=200) + marks)
    gain = auroc_gain(good, poor, marks)
    assert gain.value == pytest.approx(auroc(good, marks).value - auroc(poor, marks).value)
    assert 0 < gain.low < gain.value < gain.high
    assert auroc_gain(good, good, marks)[:3] == (0.0, 0.0, 0.0)
    assert auroc_gain(poor, good, marks).value == -gain.value


def test_the_gain_over_a_near_copy_has_a_narrower_interval_than_either_area():
    rng = np.random.default_rng(6)
    marks = list(rng.random(200) < 0.4)
    scores = rng.normal(size=200) + marks
    near = list(scores + rng.normal(size=200) * 0.05)
    gain, area = auroc_gain(list(scores), near, marks), auroc(near, marks)
    assert gain.high - gain.low < (area.high - area.low) / 5


# --- risk and coverage -------------------------------------------------------------------------------------------


def every_order(scores: list[float], positives: list[bool]) -> float:
    """Average, over all orders by ascending score, the mean over k of the error rate of the first k."""
    rows = list(zip(scores, positives, strict=True))
    orders = [order for order in permutations(rows) if [s for s, _ in order] == sorted(scores)]
    areas = [
        np.mean([np.mean([mark for _, mark in order[:k]]) for k in range(1, len(rows) + 1)])
        for order in orders
    ]
    return float(np.mean(areas))


@pytest.mark.parametrize(
    ("scores", "positives"),
    [
        ([1, 2, 3, 4], [False, True, False, True]),
        ([1, 1, 2, 2, 2, 3], [True, False, False, True, True, False]),
        ([5, 5, 5, 5, 5], [True, True, False, False, False]),
        ([2, 1, 2, 1, 3, 3, 3], [True, False, False, True, True, False, True]),
    ],
)
def test_the_area_is_the_mean_over_all_orders_of_equal_scores(scores: list[float], positives: list[bool]):
    assert aurc(scores, positives, resamples=2).value == pytest.approx(
        every_order(scores, positives), abs=1e-12
    )


def test_aurc_computed_by_hand():
    # the first 1, 2, 3, 4 of right, wrong, right, wrong: 0, 1/2, 1/3, 2/4 -> 4/3 / 4
    assert aurc([1, 2, 3, 4], [False, True, False, True]).value == pytest.approx(1 / 3)


def test_a_perfect_order_gives_the_closed_form_and_a_constant_score_the_error_rate():
    # 7 right, then 3 wrong: (1/8 + 2/9 + 3/10) / 10
    scores, wrong = list(range(10)), [False] * 7 + [True] * 3
    assert aurc(scores, wrong).value == pytest.approx((1 / 8 + 2 / 9 + 3 / 10) / 10)
    assert aurc([0.5] * 10, wrong).value == pytest.approx(0.3)
    assert aurc(scores, [False] * 10)[:3] == (0.0, 0.0, 0.0)
    assert aurc(scores, [True] * 10)[:3] == (1.0, 1.0, 1.0)


def test_the_interval_of_a_constant_score_is_that_of_a_share():
    # the area of a resample is then its share of positives: binomial(100, 0.2) / 100
    result = aurc([1.0] * 100, [True] * 20 + [False] * 80, resamples=4000)
    low, high = binom.ppf([0.025, 0.975], 100, 0.2) / 100
    assert (result.low, result.high) == (pytest.approx(low, abs=0.011), pytest.approx(high, abs=0.011))


# --- order of the rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_areas_and_intervals_do_not_depend_on_the_order_of_the_rows(seed: int):
    rng = np.random.default_rng(seed)
    totals = rng.integers(1, 5, 60)
    positives = rng.binomial(totals, 0.4)
    scores, rival = np.round(rng.normal(size=(2, 60)) + positives / totals, 1)
    order = rng.permutation(60)
    rows = [list(column) for column in (scores, rival, positives, totals)]
    mixed = [list(column[order]) for column in (scores, rival, positives, totals)]
    for area in (auroc, aurc, auroc_if_defined):
        assert area(rows[0], *rows[2:]) == area(mixed[0], *mixed[2:])
    assert auroc_gain(*rows) == auroc_gain(*mixed)


def test_the_area_of_one_kind_is_none():
    assert auroc_if_defined([1, 2], [0, 0]) is None and auroc_if_defined([1, 2], [2, 1], [2, 1]) is None
    assert auroc_if_defined([], []) is None
    assert auroc_if_defined([1, 2], [2, 0], [2, 1]) == auroc([1, 2], [2, 0], [2, 1])
