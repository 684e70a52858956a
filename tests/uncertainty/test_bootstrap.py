"""The percentile bootstrap against plain draws."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.uncertainty import bootstrap
from tasks.uncertainty.bootstrap import percentile_interval, resampled


def test_resamples_do_not_depend_on_how_they_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random(7)
    rng = np.random.default_rng(5)
    plain = [values[rng.integers(0, 7, 7)].mean() for _ in range(50)]
    for rows in (1, 20, 1000):  # one resample at once, two, all
        monkeypatch.setattr(bootstrap, "_BATCH", rows)
        drawn = resampled(lambda indices: values[indices].mean(axis=1), 7, resamples=50, seed=5)
        assert drawn.tolist() == plain


def test_resamples_without_a_value_are_left_out_of_the_interval() -> None:
    drawn = np.array([np.nan, *np.arange(101.0)])
    assert percentile_interval(drawn, 0.9) == pytest.approx((5.0, 95.0))
