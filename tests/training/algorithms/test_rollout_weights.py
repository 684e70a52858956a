"""Rollout weights by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.algorithms.base import Columns
from training.algorithms.rollout_weights import Product, answer_share, right_only


def columns(rewards: list[float] | None = None, answer_shares: list[float] | None = None) -> Columns:
    return Columns(
        lengths=np.array([1, 2, 1]),
        groups=np.array([0, 0, 1]),
        rewards=None if rewards is None else np.array(rewards),
        answer_shares=None if answer_shares is None else np.array(answer_shares),
    )


def test_right_rollouts_count_and_an_answer_counts_by_its_share() -> None:
    made = columns(rewards=[1.0, 0.0, 1.0], answer_shares=[0.75, 0.25, 0.0])
    assert right_only(made).tolist() == [1, 0, 1]
    assert answer_share(made).tolist() == [0.75, 0.25, 0]
    assert Product(first=right_only, second=answer_share)(made).tolist() == [0.75, 0, 0]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="the rollouts have no rewards"):
        right_only(columns())
    with pytest.raises(ValueError, match="the rollouts have no answer shares"):
        answer_share(columns())
