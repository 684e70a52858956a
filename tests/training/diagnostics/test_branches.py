"""The pure parts of branch viability: filters, measures, labels and areas, by hand and by brute force."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import log
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from training.diagnostics.areas import areas, centred
from training.diagnostics.branches import (
    Branch,
    Label,
    Limits,
    Position,
    choose,
    label_of,
    measures,
    positions_of,
    usable_tokens,
)

LIMITS = Limits(min_second=0.02, min_ratio=0.10, spacing=64, max_positions=5)
THRESHOLDS = Branch(diverse_children=2, diverse_rate=0.75, uncertain_rate=0.40)
USABLE = np.ones(10, dtype=np.bool_)


def position(first: float, second: float, entropy: float = 0.5) -> Position:
    return Position(ids=(1, 2), probs=(first, second), entropy=entropy)


# --- candidates --------------------------------------------------------------------------------------------------


def test_every_filter_counts_the_positions_that_it_drops() -> None:
    usable = USABLE.copy()
    usable[9] = False
    positions = [
        position(0.9, 0.0199),  # second below .02
        position(0.9, 0.0899),  # ratio below .10
        position(0.5, 0.05),  # the ratio at its limit: passes
        Position(ids=(1,), probs=(0.9,), entropy=0.0),  # a single valid token
        position(0.5, 0.4),  # the spine's token is not valid
        position(0.5, 0.4),  # in the box
        position(0.5, 0.4),  # after the box
    ]
    chosen, dropped = choose(positions, [1, 1, 1, 1, 9, 1, 1], 5, usable, LIMITS)
    assert chosen == [2]
    assert dropped == Counter(low_second=1, low_ratio=1, invalid_token=2, after_box=2)


def test_positions_of_highest_entropy_are_taken_first_at_a_distance() -> None:
    entropies = {0: 0.1, 30: 0.9, 93: 0.8, 94: 0.7, 158: 0.7, 300: 0.2, 400: 0.3, 500: 0.4, 600: 0.05}
    positions = [
        position(0.5, 0.4, entropies[place]) if place in entropies else position(0.99, 0.001)
        for place in range(700)
    ]
    chosen, dropped = choose(positions, [1] * 700, 700, USABLE, LIMITS)
    # 30 (.9); 93 is 63 away; 94 (.7) is 64 away and before 158, which is 64 from it; then 500 and 400
    assert chosen == [30, 94, 158, 400, 500]
    assert dropped == Counter(low_second=691, too_close=1, beyond_maximum=3)


def test_the_truncated_entropy_is_over_valid_tokens_renormalised() -> None:
    usable = USABLE.copy()
    usable[7] = False
    logprobs = np.log(np.array([[0.5, 0.2, 0.1, 0.05], [0.9, 0.015, 0.01, 0.001]]))
    ids = np.array([[3, 7, 4, 5], [3, 4, 5, 6]], dtype=np.int32)
    first, second = positions_of(logprobs, ids, usable, 0.02)
    shares = np.array([0.5, 0.1, 0.05]) / 0.65
    assert first.ids == (3, 4, 5) and first.probs == pytest.approx((0.5, 0.1, 0.05))
    assert first.entropy == pytest.approx(-(shares * np.log(shares)).sum())
    shares = np.array([0.9, 0.015, 0.01, 0.001]) / 0.926
    assert second.ids == (3, 4) and second.entropy == pytest.approx(-(shares * np.log(shares)).sum())


def test_special_and_junk_tokens_are_no_branches() -> None:
    texts = ["<|im_end|>", "<think>", " x", "\n\n", "\ufffd", "\x07", "", "é", "+"]
    tokenizer: Any = SimpleNamespace(
        get_added_vocab=lambda: {"<think>": 1},
        all_special_ids=[0],
        batch_decode=lambda rows, skip_special_tokens: [texts[token] for (token,) in rows],
    )
    assert np.flatnonzero(usable_tokens(tokenizer, len(texts))).tolist() == [2, 7, 8]


# --- MC dropout --------------------------------------------------------------------------------------------------


def test_the_measures_of_two_passes_by_hand() -> None:
    found = measures(np.array([[0.8, 0.2], [0.4, 0.6]]))
    mean = -(0.6 * log(0.6) + 0.4 * log(0.4))
    within = -(0.8 * log(0.8) + 0.2 * log(0.2) + 0.4 * log(0.4) + 0.6 * log(0.6)) / 2
    assert found.entropy == pytest.approx(mean)
    assert found.mutual_information == pytest.approx(mean - within)
    # the variance of .8 and .4 is .08, as that of .2 and .6: kappa = (.24 + .24) / .16 - 1 = 2
    assert found.log_precision == pytest.approx(log(2))


@pytest.mark.parametrize("kappa", [0.5, 4.0, 60.0])
def test_the_precision_is_that_of_a_dirichlet_distribution(kappa: float) -> None:
    mean = np.array([0.5, 0.3, 0.15, 0.05])
    drawn = np.random.default_rng(0).dirichlet(kappa * mean, size=200_000)
    assert measures(drawn).log_precision == pytest.approx(log(kappa), abs=0.02)


def test_the_precision_has_a_lower_limit_and_equal_passes_have_no_information() -> None:
    assert measures(np.array([[1.0, 0.0], [0.0, 1.0]])).log_precision == pytest.approx(log(1e-6))
    same = measures(np.array([[0.7, 0.3]] * 5))
    assert same.mutual_information == pytest.approx(0, abs=1e-12) and 20 < same.log_precision < 30


# --- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "label"),
    [
        ((0.75, 0.75, 0.0), Label.DIVERSITY),
        ((1.0, 0.74, 0.0), Label.GRAY),
        ((0.39, 0.39, 0.39), Label.REAL_UNCERTAIN),
        ((0.0, 0.40, 0.0), Label.GRAY),
        ((0.0,), Label.REAL_UNCERTAIN),
        ((1.0,), Label.GRAY),  # one child cannot be diverse
    ],
)
def test_the_labels_at_their_limits(rates: tuple[float, ...], label: Label) -> None:
    assert label_of(rates, THRESHOLDS) is label


# --- areas -------------------------------------------------------------------------------------------------------


def brute_roc(scores: Any, positive: Any) -> float:
    pairs = [
        (first > second) + (first == second) / 2
        for (first, hit), (second, other) in product(zip(scores, positive, strict=True), repeat=2)
        if hit and not other
    ]
    return float(np.mean(pairs))


def brute_precision(scores: Any, positive: Any) -> float:
    total, before, area = sum(positive), 0, 0.0
    for level in sorted(set(scores), reverse=True):
        taken = [hit for score, hit in zip(scores, positive, strict=True) if score >= level]
        area += (sum(taken) - before) / total * sum(taken) / len(taken)
        before = sum(taken)
    return area


@pytest.mark.parametrize("seed", range(3))
def test_areas_and_intervals_are_those_of_brute_force(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = [str(number) for number in random.integers(0, 9, size=40)]
    positive = (random.random(40) < 0.4).tolist()
    scores = np.round(random.normal(size=40) + np.array(positive), 1)  # with ties
    found = areas(scores, positive, groups, resamples=60, seed=seed)
    assert found is not None
    roc, precision = found
    assert roc.value == pytest.approx(brute_roc(scores, positive))
    assert precision.value == pytest.approx(brute_precision(scores, positive))
    names = sorted(set(groups))
    drawn = np.random.default_rng(seed).integers(0, len(names), (60, len(names)))
    rows = [
        [place for number in line for place in range(40) if groups[place] == names[number]] for line in drawn
    ]
    for area, brute in ((roc, brute_roc), (precision, brute_precision)):
        values = [
            brute(scores[row], [positive[place] for place in row])
            for row in rows
            if 0 < sum(positive[place] for place in row) < len(row)
        ]
        assert (area.low, area.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_areas_need_both_classes() -> None:
    assert areas([1.0, 2.0], [True, True], ["a", "b"], resamples=10, seed=0) is None
    assert areas([], [], [], resamples=10, seed=0) is None


def test_scores_are_centred_within_their_problem() -> None:
    found = centred([1.0, 3.0, 10.0, 20.0, 5.0], ["b", "b", "a", "a", "c"])
    assert found.tolist() == [-1.0, 1.0, -5.0, 5.0, 0.0]
