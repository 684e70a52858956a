"""Semantic entropy, compared with closed forms and an independent implementation."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy

from tasks.uncertainty.entropy import majority, semantic_entropy


def test_one_cluster_has_no_entropy() -> None:
    result = semantic_entropy([-3.0, -7.0, -1.0], [10, 20, 5], [0, 0, 0])
    assert (result.entropy, result.weight, result.discrete_entropy) == (0.0, 1.0, 0.0)
    assert result.cluster_probs == (1.0,)


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_singletons_of_equal_normalised_probability_have_maximal_entropy(n: int) -> None:
    counts = [3 * (i + 1) for i in range(n)]
    result = semantic_entropy([-0.25 * count for count in counts], counts, list(range(n)))
    assert result.entropy == pytest.approx(math.log(n), abs=1e-12)
    assert result.weight == pytest.approx(0.0, abs=1e-12)
    assert result.weight >= 0.0


def test_sizes_four_two_two() -> None:
    result = semantic_entropy([-2.0] * 8, [4] * 8, [0, 0, 0, 0, 1, 1, 2, 2])
    assert result.discrete_entropy == pytest.approx(1.0397207708399179, abs=1e-12)
    assert result.entropy == pytest.approx(1.0397207708399179, abs=1e-12)
    assert result.weight == pytest.approx(0.5, abs=1e-12)


def test_two_clusters_computed_by_hand() -> None:
    # l = (log 0.5, log 0.25, log 0.25): p = (1/2, 1/2); by count (1/3, 2/3)
    result = semantic_entropy([2 * math.log(0.5), math.log(0.25), 4 * math.log(0.25)], [2, 1, 4], [0, 1, 1])
    assert result.cluster_probs == pytest.approx((0.5, 0.5), abs=1e-15)
    assert result.entropy == pytest.approx(math.log(2), abs=1e-15)
    assert result.discrete_entropy == pytest.approx(math.log(3) - 2 / 3 * math.log(2), abs=1e-15)
    assert result.weight == pytest.approx(1 - math.log(2) / math.log(3), abs=1e-15)


def test_huge_negative_sums_do_not_underflow() -> None:
    result = semantic_entropy([-1e6, -1e6, -1e6, -1e6], [1, 1, 1, 1], [0, 0, 1, 1])
    assert result.entropy == pytest.approx(math.log(2), abs=1e-9)
    far = semantic_entropy([-1e6, -1.0], [1, 1], [0, 1])
    assert far.cluster_probs == (0.0, 1.0)
    assert far.entropy == 0.0


def test_random_cases_agree_with_scipy() -> None:
    draw = random.Random(5)
    for _ in range(200):
        n = draw.randint(2, 16)
        counts = [draw.randint(1, 400) for _ in range(n)]
        sums = [-draw.expovariate(1 / 40) for _ in range(n)]
        labels = [draw.randrange(n) for _ in range(n)]
        result = semantic_entropy(sums, counts, labels)
        shares = softmax(np.array(sums) / np.array(counts))
        probs = [shares[np.array(labels) == label].sum() for label in range(max(labels) + 1)]
        sizes = [labels.count(label) / n for label in range(max(labels) + 1)]
        assert result.cluster_probs == pytest.approx(probs, abs=1e-12)
        assert result.entropy == pytest.approx(float(scipy_entropy(probs)), abs=1e-12)
        assert result.discrete_entropy == pytest.approx(float(scipy_entropy(sizes)), abs=1e-12)
        assert result.weight == pytest.approx(1 - float(scipy_entropy(probs)) / math.log(n), abs=1e-12)


def test_the_order_of_samples_changes_no_bit() -> None:
    draw = random.Random(6)
    for _ in range(100):
        rows = [(-draw.expovariate(0.05), draw.randint(1, 99), draw.randrange(4)) for _ in range(8)]
        shuffled = draw.sample(rows, 8)
        first, second = (semantic_entropy(*map(list, zip(*order, strict=True))) for order in (rows, shuffled))
        assert first == second


def test_splitting_a_cluster_raises_the_entropy() -> None:
    draw = random.Random(7)
    for _ in range(100):
        sums = [-draw.expovariate(0.05) for _ in range(8)]
        whole = semantic_entropy(sums, [10] * 8, [0, 0, 0, 0, 1, 1, 2, 2])
        split = semantic_entropy(sums, [10] * 8, [0, 0, 3, 3, 1, 1, 2, 2])
        assert split.entropy > whole.entropy
        assert split.discrete_entropy > whole.discrete_entropy
        assert 0.0 <= split.weight < whole.weight <= 1.0


def test_dropped_samples_are_ignored() -> None:
    with_dropped = semantic_entropy([-1.0, -5.0, -2.0, -9.0], [1, 2, 3, 4], [0, -1, 1, -1])
    assert with_dropped == semantic_entropy([-1.0, -2.0], [1, 3], [0, 1])


@pytest.mark.parametrize(
    ("sums", "counts", "labels", "message"),
    [
        ([-1.0, -1.0], [3, 0], [0, 1], "sample 1 is empty"),
        ([math.nan, -1.0], [1, 1], [0, 1], "sample 0 has log-probability nan"),
        ([-1.0, 0.5], [1, 1], [0, 1], "sample 1 has log-probability 0.5"),
        ([-1.0, -math.inf], [1, 1], [0, 1], "sample 1 has log-probability -inf"),
        ([-1.0, -1.0], [1, 1], [0, -2], "sample 1 has label -2"),
        ([-1.0], [1], [0], "at least 2 samples"),
        ([-1.0, -1.0], [1, 1], [0, -1], "at least 2 samples"),
        ([-1.0, -1.0], [1, 1], [0], "give one of each per sample"),
    ],
)
def test_invalid_samples_are_named(
    sums: list[float], counts: list[int], labels: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        semantic_entropy(sums, counts, labels)


def test_the_majority_is_the_largest_cluster_and_ties_go_to_the_first() -> None:
    assert majority([0, 1, 1, 2]) == 1
    assert majority([2, 1, 1, 2]) == 2
    assert majority([-1, -1, -1, 5]) == 5
    with pytest.raises(ValueError, match="no sample has a cluster"):
        majority([-1, -1])
