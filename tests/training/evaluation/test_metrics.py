"""The vote and the interval of a mean against hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.metrics import maj_at_n, mean_estimate


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


def test_a_mean_of_no_values_or_nan_is_an_error() -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_estimate([])
    with pytest.raises(ValueError, match="finite"):
        mean_estimate([0.1, float("nan")])
