"""Uncertainty measures, compared with scipy, direct formulas and closed forms, and their invariants."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy

from tasks.rows import Response
from tasks.uncertainty.measures import Scope, Uncertainties, entropies_by_size, spans, uncertainties

CASES = 10_000


def response(index: int, total: float, count: int, *, text: str = "", answer: str | None = "1") -> Response:
    return Response(
        problem_id="p", index=index, text=text or f"text {index}", token_count=count, logprob_sum=total,
        finish_reason="stop", answer=answer, model="m", prompt="f", sampling="{}", seed=index,
    )  # fmt: skip


def random_case(draw: random.Random) -> tuple[list[Response], list[int]]:
    """Return 2 to 16 responses with random probabilities: some with equal texts, without an answer, or excluded."""
    n = draw.randint(2, 16)
    scale = draw.choice((0.5, 40.0, 3000.0))
    responses, labels = [], []
    for index in range(n):
        label = draw.randrange(-1 if index > 1 else 0, draw.choice((1, 3, n)))
        responses.append(
            response(
                index, -draw.expovariate(1 / scale), draw.randint(1, 400), text=f"{label} {draw.randrange(3)}",
                answer=None if draw.random() < 0.2 else str(label),
            )
        )  # fmt: skip
        labels.append(label)
    return responses, labels


def padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([[*row, *[0.0] * (width - len(row))] for row in rows])


def cluster_shares(responses: Sequence[Response], labels: Sequence[int], *, valid: bool) -> list[float]:
    """Return p(c), by numpy; one cluster with p = 1 if fewer than two responses are included."""
    used = [
        (label, row.logprob_sum / row.token_count)
        for label, row in zip(labels, responses, strict=True)
        if label >= 0 and not (valid and row.answer is None)
    ]
    if len(used) < 2:
        return [1.0]
    shares = softmax(np.array([mean for _, mean in used]))
    keys = np.array([label for label, _ in used])
    return [float(shares[keys == key].sum()) for key in sorted(set(keys.tolist()))]


def test_ten_thousand_random_cases_agree_with_scipy_and_the_explicit_formulas() -> None:
    draw = random.Random(11)
    cases = [random_case(draw) for _ in range(CASES)]
    found = [uncertainties(*case) for case in cases]
    used = [[row for row, label in zip(*case, strict=True) if label >= 0] for case in cases]
    kept = [[label for label in labels if label >= 0] for _, labels in cases]

    def column(name: str) -> np.ndarray:
        return np.array([getattr(row, name) for row in found], dtype=float)

    whole = scipy_entropy(padded([cluster_shares(*case, valid=False) for case in cases]), axis=1)
    assert np.abs(column("semantic_entropy") - whole).max() < 1e-9
    logs = np.array([math.log(len(rows)) for rows in used])
    assert np.abs(column("weight") - np.clip(1 - whole / logs, 0, 1)).max() < 1e-9
    counts = padded([[labels.count(c) for c in set(labels)] for labels in kept])
    assert np.abs(column("discrete_entropy") - scipy_entropy(counts, axis=1)).max() < 1e-9
    share = [max(labels.count(c) for c in labels) / len(labels) for labels in kept]
    assert np.abs(column("majority_share") - share).max() < 1e-9
    valid = np.asarray(scipy_entropy(padded([cluster_shares(*case, valid=True) for case in cases]), axis=1))
    few = np.array([sum(row.answer is not None for row in rows) < 2 for rows in used])
    assert np.isnan(column("valid_entropy")[few]).all() and few.any()
    assert np.abs(column("valid_entropy")[~few] - valid[~few]).max() < 1e-9
    sums = [np.array([row.logprob_sum for row in rows]) for rows in used]
    tokens = [np.array([row.token_count for row in rows]) for rows in used]
    assert np.abs(column("predictive_entropy") + [s.mean() for s in sums]).max() < 1e-9
    means = [(s / t).mean() for s, t in zip(sums, tokens, strict=True)]
    assert np.abs(column("normalised_entropy") + means).max() < 1e-9
    per_token = [s.sum() / t.sum() for s, t in zip(sums, tokens, strict=True)]
    assert np.abs(column("mean_logprob") - per_token).max() < 1e-9


def test_cluster_and_text_entropies_satisfy_the_chain_rule() -> None:
    draw = random.Random(12)
    for _ in range(500):
        responses, labels = random_case(draw)
        texts = [row.text if label >= 0 else "" for row, label in zip(responses, labels, strict=True)]
        numbers = [-1 if not text else sorted(set(texts)).index(text) for text in texts]
        found = uncertainties(responses, labels)
        over_texts = uncertainties(responses, numbers).semantic_entropy
        assert found.semantic_entropy + found.intra_entropy == pytest.approx(over_texts, abs=1e-9)


def test_eight_equal_texts_have_no_intra_entropy_and_eight_different_ones_log_8() -> None:
    same = [response(i, -2.0, 4, text="so 1") for i in range(8)]
    different = [response(i, -2.0, 4) for i in range(8)]
    assert uncertainties(same, [0] * 8).intra_entropy == 0.0
    assert uncertainties(different, [0] * 8).intra_entropy == pytest.approx(math.log(8), abs=1e-12)
    assert uncertainties(different, list(range(8))).intra_entropy == 0.0


def test_a_case_computed_by_hand() -> None:
    rows = [response(0, -2.0, 4), response(1, -3.0, 2), response(2, -1.0, 2, answer=None)]
    found = uncertainties(rows, [0, 0, 1])  # l = -1/2, -3/2, -1/2
    a, b = math.exp(-0.5), math.exp(-1.5)
    p = (a + b) / (2 * a + b)
    assert found.cluster_probs == pytest.approx((p, 1 - p), abs=1e-15)
    assert found.predictive_entropy == pytest.approx(2.0, abs=1e-15)  # (2 + 3 + 1) / 3
    assert found.normalised_entropy == pytest.approx(2.5 / 3, abs=1e-15)
    assert found.mean_logprob == pytest.approx(-0.75, abs=1e-15)  # -6 / 8
    assert found.majority_share == pytest.approx(2 / 3, abs=1e-15)
    assert found.valid_entropy == 0.0  # the two with an answer agree


def test_no_measure_depends_on_the_order_of_responses_or_the_labels_of_clusters() -> None:
    draw = random.Random(13)
    for _ in range(500):
        responses, labels = random_case(draw)
        order = draw.sample(range(len(labels)), len(labels))
        names = dict(zip(range(16), draw.sample(range(16), 16), strict=True)) | {-1: -1}
        first = uncertainties(responses, labels)
        second = uncertainties([responses[i] for i in order], [names[labels[i]] for i in order])
        for name in Uncertainties.__dataclass_fields__:
            if name != "cluster_probs":
                assert getattr(second, name) == pytest.approx(getattr(first, name), abs=1e-12), name


def test_splitting_a_cluster_raises_h_and_weights_stay_between_0_and_1() -> None:
    draw, splits = random.Random(14), 0
    for _ in range(500):
        responses, labels = random_case(draw)
        whole = uncertainties(responses, labels)
        assert 0.0 <= whole.weight <= 1.0
        members = [index for index, label in enumerate(labels) if label == labels[0]]
        if len(members) < 2:
            continue
        split = [16 if index == members[0] else label for index, label in enumerate(labels)]
        apart = uncertainties(responses, split)
        assert apart.semantic_entropy >= whole.semantic_entropy - 1e-12
        assert apart.discrete_entropy > whole.discrete_entropy
        assert apart.weight <= whole.weight + 1e-12
        splits += apart.semantic_entropy > whole.semantic_entropy
    assert splits > 200  # in the others a share is too small for a float


def test_smaller_sizes_use_only_the_first_responses() -> None:
    rows = [response(i, -float(i + 1), 3) for i in range(16)]
    labels = [0, 0, 1, 0, 2, 1, 0, 0, 3, 0, 0, 1, 1, 0, 2, 0]
    found = entropies_by_size(rows, labels)
    assert list(found) == [2, 4, 8, 16]
    for n, part in found.items():
        alone = uncertainties(rows[:n], labels[:n])
        assert part is not None
        assert (part.entropy, part.weight) == (alone.semantic_entropy, alone.weight)
    assert list(entropies_by_size(rows[:7], labels[:7])) == [2, 4]
    assert entropies_by_size(rows[:4], [0, -1, 0, 1])[2] is None


@pytest.mark.parametrize(
    ("scope", "sums", "counts"),
    [("all", [-8.0, -4.0], [8, 2]), ("after_think", [-3.0, -4.0], [4, 2]), ("answer", [-0.5, -4.0], [1, 2])],
)
def test_the_scope_selects_the_tokens_and_responses_without_them_use_all_tokens(
    scope: Scope, sums: list[float], counts: list[int]
) -> None:
    thought = replace(
        response(0, -8.0, 8), after_think_logprob_sum=-3.0, after_think_token_count=4,
        answer_logprob_sum=-0.5, answer_token_count=1,
    )  # fmt: skip
    plain = response(1, -4.0, 2, answer=None)
    assert spans([thought, plain], scope) == (sums, counts)
    share = softmax(np.array(sums) / counts)
    found = uncertainties([thought, plain], [0, 1], scope=scope)
    assert found.cluster_probs == pytest.approx(share.tolist(), abs=1e-12)


def test_invalid_log_probabilities_are_rejected() -> None:
    with pytest.raises(ValueError, match="sample 1 has log-probability nan"):
        uncertainties([response(0, -1.0, 1), response(1, math.nan, 1)], [0, 1])
    with pytest.raises(ValueError, match="at least 2 samples"):
        uncertainties([response(0, -1.0, 1), response(1, -1.0, 1)], [0, -1])
