from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tasks.core.auroc import auroc


def test_by_hand_three_of_four_pairs_are_in_order():
    # positives 0.4 and 0.9, negatives 0.1 and 0.5: 0.4 > 0.1, 0.4 < 0.5, 0.9 > both -> 3/4
    assert auroc([0.4, 0.9, 0.1, 0.5], [True, True, False, False]).value == 0.75


def test_by_hand_a_tie_counts_one_half():
    # positives 1 and 2, negatives 1 and 0: (1,1) half, (1,0), (2,1), (2,0) -> 3.5/4
    assert auroc([1, 2, 1, 0], [True, True, False, False]).value == 0.875


def test_equal_scores_know_nothing():
    result = auroc([0.3] * 10, [True] * 3 + [False] * 7)
    assert (result.value, result.low, result.high, result.n) == (0.5, 0.5, 0.5, 10)


def test_perfect_and_reversed_order_give_one_and_zero():
    assert auroc([1, 2, 3, 4], [False, False, True, True])[:3] == (1.0, 1.0, 1.0)
    assert auroc([1, 2, 3, 4], [True, True, False, False]).value == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_sklearn_with_many_ties_and_with_none(seed: int):
    rng = np.random.default_rng(seed)
    marks = rng.random(300) < 0.3
    continuous = rng.normal(size=300) + marks
    for scores in (continuous, np.round(continuous, 0)):
        assert auroc(list(scores), list(marks), resamples=2).value == pytest.approx(
            roc_auc_score(marks, scores), abs=1e-12
        )


def test_the_interval_holds_the_value_is_repeatable_and_narrows_with_rows():
    rng = np.random.default_rng(1)
    marks = rng.random(4000) < 0.4
    scores = rng.normal(size=4000) + marks
    few, many = auroc(list(scores[:200]), list(marks[:200])), auroc(list(scores), list(marks))
    assert few == auroc(list(scores[:200]), list(marks[:200]))
    assert few.low < few.value < few.high and many.low < many.value < many.high
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(20**0.5, rel=0.35)


def test_the_interval_covers_the_true_area_about_as_often_as_it_says():
    # normal scores shifted by 1: the true area is Phi(1 / sqrt(2)) = 0.7602
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(150):
        scores = np.concatenate([rng.normal(1, 1, 60), rng.normal(0, 1, 60)])
        result = auroc(list(scores), [True] * 60 + [False] * 60, resamples=200, seed=trial)
        covered += result.low <= 0.7602 <= result.high
    assert 0.88 <= covered / 150 <= 0.99


def test_bad_input_is_refused_with_its_place():
    with pytest.raises(ValueError, match="2 scores for 1 labels"):
        auroc([1, 2], [True])
    with pytest.raises(ValueError, match="row 1"):
        auroc([1, float("nan")], [True, False])
    with pytest.raises(ValueError, match="0 of 2 rows are positive"):
        auroc([1, 2], [False, False])
    with pytest.raises(ValueError, match="2 of 2"):
        auroc([1, 2], [True, True])
