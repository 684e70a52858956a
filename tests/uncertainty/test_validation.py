"""Validation statistics, compared with hand-computed numbers, closed forms and independent libraries."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from tasks.rows import JudgedPair
from tasks.uncertainty.validation import (
    MEASURES,
    Checked,
    PairCheck,
    agreement,
    by_tier,
    check_pair,
    detect,
    largest_difference,
    measures,
    reliability,
    spearman,
    spread,
    stability,
    wilson,
)
from tests.annotated import annotated, crowd


def checked(
    score: float, right: int, *, samples: int = 8, weight: float = 0.5, tier: str = "easy"
) -> Checked:
    """Return a problem with the same score for every measure; its majority is right if at least half of the samples are."""
    return Checked(
        tier=tier,
        weight=weight,
        scores=dict.fromkeys(MEASURES, score),
        majority_right=2 * right >= samples,
        right=right,
        samples=samples,
    )


def test_the_measures_of_a_row_are_larger_if_it_is_less_certain():
    sure, _ = annotated(1, ["7"] * 8)
    torn, _ = annotated(1, ["7", "8", "7", "8", "9", "6", "5", "7"])
    own, other = measures(sure), measures(torn)
    assert set(own) == set(MEASURES) and next(iter(MEASURES)) == "semantic_entropy"
    assert own["semantic_entropy"] == own["discrete_entropy"] == own["one_minus_majority_share"] == 0.0
    assert other["one_minus_majority_share"] == 5 / 8 and other["semantic_entropy"] > 1.0
    assert own["negative_mean_logprob"] == -sure.mean_logprob > 0


def test_majorities_and_samples_are_counted_and_ranked_separately():
    # right of 8: 8, 6, 4 (a majority), 2, 0; the scores rank them perfectly
    rows = [checked(score, right) for score, right in ((0.0, 8), (0.1, 6), (0.2, 4), (0.3, 2), (0.4, 0))]
    majority, sample = detect(rows, "majority"), detect(rows, "sample")
    assert (majority.wrong, majority.total, majority.problems) == (2, 5, 5)
    assert (sample.wrong, sample.total, sample.problems) == (20, 40, 5)
    for one in majority.detections:
        assert one.auroc is not None and one.auroc.value == 1.0
        assert one.aurc.value == pytest.approx((1 / 4 + 2 / 5) / 5) == pytest.approx(majority.best_aurc)
    marks = [index >= row.right for row in rows for index in range(8)]
    scores = np.repeat([row.scores["semantic_entropy"] for row in rows], 8)
    area = mannwhitneyu(scores[marks], scores[np.invert(marks)]).statistic / (20 * 20)
    for one in sample.detections:
        assert one.auroc is not None and one.auroc.value == pytest.approx(area)
        assert one.aurc.value == pytest.approx(sample.best_aurc)


def test_h_comes_first_without_a_gain_and_an_equal_measure_has_gain_zero():
    rows = [checked(random.Random(i).random(), i % 9) for i in range(40)]
    first, *others = detect(rows, "majority").detections
    assert first.measure == "semantic_entropy" and first.gain is None
    assert [one.measure for one in others] == list(MEASURES)[1:]
    assert all(one.gain is not None and one.gain[:3] == (0.0, 0.0, 0.0) for one in others)


def test_without_errors_there_is_no_auroc_and_the_aurc_is_zero():
    target = detect([checked(0.1, 8), checked(0.2, 8)], "majority")
    assert target.wrong == 0 and target.best_aurc == 0.0
    assert all(one.auroc is None and one.gain is None and one.aurc.value == 0.0 for one in target.detections)


def test_every_tier_has_its_own_area():
    # over both tiers the score is perfect, within each it is reversed or constant
    easy = [checked(0.2, 8), checked(0.1, 0)]
    hard = [checked(0.9, 8, tier="hard", weight=0.1), checked(0.9, 0, tier="hard", weight=0.3)]
    one, two = by_tier(easy + hard, ["easy", "medium", "hard"])
    assert (one.tier, one.problems, one.majority_right) == ("easy", 2, 1)
    assert one.auroc is not None and one.auroc.value == 0.0
    assert two.auroc is not None and two.auroc.value == 0.5 and two.mean_weight == pytest.approx(0.2)
    (certain,) = by_tier([checked(0.1, 8)], ["easy"])
    assert certain.auroc is None


def test_bins_and_calibration_errors_computed_by_hand():
    rows = [
        checked(0, 0, weight=0.05), checked(0, 2, weight=0.09),  # bin 0: mean w 0.07, majorities 0, samples 2/16
        checked(0, 8, weight=0.1),  # bin 1: the lower edge belongs to the bin
        checked(0, 8, weight=1.0), checked(0, 2, weight=0.9),  # bin 9: the upper end is in it
    ]  # fmt: skip
    found = reliability(rows)
    assert [(one.low, one.problems) for one in found.bins] == [(0.0, 2), (0.1, 1), (0.9, 2)]
    first, second, last = found.bins
    assert (first.mean_weight, first.majority, first.sample) == (pytest.approx(0.07), 0.0, 2 / 16)
    assert (second.majority, last.majority, last.mean_weight) == (1.0, 0.5, pytest.approx(0.95))
    # 2/5 |0 - 0.07| + 1/5 |1 - 0.1| + 2/5 |0.5 - 0.95|
    assert found.majority_error == pytest.approx(0.4 * 0.07 + 0.2 * 0.9 + 0.4 * 0.45)
    # 2/5 |0.125 - 0.07| + 1/5 |1 - 0.1| + 2/5 |0.625 - 0.95|
    assert found.sample_error == pytest.approx(0.4 * 0.055 + 0.2 * 0.9 + 0.4 * 0.325)


def test_a_weight_equal_to_the_probability_of_being_right_has_no_calibration_error():
    rows = [checked(0, 8, weight=1.0)] * 3 + [checked(0, 0, weight=0.0)] * 5
    assert reliability(rows).majority_error == reliability(rows).sample_error == 0.0


def test_wilson_interval_computed_by_hand_and_at_its_ends():
    # 8 of 10: (0.8 + 1.9208/10 +- 1.96 sqrt(0.016 + 0.9604/100)) / 1.38416
    assert wilson(8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 5)[0] == 0.0 and wilson(5, 5)[1] == 1.0 and wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("seed", range(4))
def test_spearman_agrees_with_scipy_with_and_without_ties(seed: int):
    rng = random.Random(seed)
    first = [rng.randint(0, 9) if seed % 2 else rng.random() for _ in range(60)]
    second = [value + rng.randint(0, 5) for value in first]
    assert spearman(first, second) == pytest.approx(spearmanr(first, second)[0], abs=1e-12)
    assert spearman([1.0, 1.0], [1.0, 2.0]) is None


def test_stability_pairs_the_sizes_that_rows_have():
    # the first four agree and the next four do not; then the reverse
    rows = [
        annotated(1, ["7"] * 4 + ["1", "2", "3", "4"])[0],
        annotated(2, ["1", "2", "3", "4"] + ["7"] * 4)[0],
    ]
    (pair,) = stability(rows)
    small = [dict(zip(row.sizes, row.weight_by_size, strict=True))[4] for row in rows]
    assert small[0] == 1.0 and small[1] is not None and small[1] < 0.1
    assert (pair.small, pair.large, pair.problems) == (4, 8, 2)
    assert small[1] is not None
    assert pair.mean_difference == pytest.approx((1.0 - rows[0].weight + rows[1].weight - small[1]) / 2)
    assert pair.spearman is not None
    assert stability([annotated(1, ["7"] * 4)[0]]) == ()
    sixteen = stability([annotated(1, ["7", "8"] * 8)[0]])
    assert [(one.small, one.large) for one in sixteen] == [(4, 8), (4, 16), (8, 16)]


def test_agreement_counts_only_pairs_that_both_decided():
    marks = [(True, True)] * 3 + [(False, False)] * 5 + [(True, False)] + [(None, True), (False, None)]
    checks = [PairCheck(first=str(i), second="x", judge=a, verify=b) for i, (a, b) in enumerate(marks)]
    found = agreement(checks)
    assert (found.pairs, found.judge_decided, found.verify_decided, found.both) == (11, 10, 10, 9)
    assert (found.both_same, found.both_different, found.only_judge_same, found.only_verify_same) == (
        3,
        5,
        1,
        0,
    )
    assert found.rate == 8 / 9 and (found.low, found.high) == wilson(8, 9)
    assert [one.first for one in found.disagreements] == ["8"]
    # agreement 8/9; by chance (4 * 3 + 5 * 6) / 81: 4 of 9 true for the judge, 3 of 9 for the comparison
    assert found.kappa == pytest.approx((8 / 9 - 42 / 81) / (1 - 42 / 81)) == pytest.approx(10 / 13)


def test_agreement_without_decided_pairs_is_none():
    assert agreement([]).rate is None and agreement([]).kappa is None
    alike = [PairCheck(first="a", second="b", judge=False, verify=False)] * 4
    assert agreement(alike).rate == 1.0 and agreement(alike).kappa is None


def test_the_number_of_disagreements_shown_is_limited():
    apart = [PairCheck(first=str(i), second="x", judge=True, verify=False) for i in range(50)]
    found = agreement(apart, shown=3)
    assert found.only_judge_same == 50 and len(found.disagreements) == 3


def judged(
    first: str, second: str, *, same: bool = True, flipped: bool = False, reply: str | None = None
) -> JudgedPair:
    output = f'{{"first":"{first}","second":"{second}","equivalent":{str(same).lower()}}}'.replace(
        "\\", "\\\\"
    )
    return JudgedPair(
        first=first, second=second, equivalent=same, flipped=flipped, forward=output, backward=output if reply is None else reply
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pair", "judge", "verify"),
    [
        (judged("(x+1)^2", "x^2 + 2x + 1"), True, True),
        (judged("x + 1", "x + 2"), True, False),
        (judged("x + 1", "x + 2", same=False, flipped=True), None, False),
        (judged("x + 1", "x + 2", same=False, reply="no JSON"), None, False),
        (judged("x + 1", "x + 2", same=False, reply="failed: refused"), None, False),
        (judged(r"\frac{1}{", "3", same=False), False, None),  # Math-Verify cannot read it
        (judged("x" * 2000, "y", same=False), False, None),
    ],
)
def test_when_judge_and_math_verify_decide(pair: JudgedPair, judge: bool | None, verify: bool | None):
    found = check_pair(pair, 60.0)
    assert (found.judge, found.verify) == (judge, verify)


def test_the_spread_of_a_group():
    found = spread("hard", [0.0, 0.0, 1.0, 2.0])
    assert (found.problems, found.mean, found.median, found.certain) == (4, 0.75, 0.5, 0.5)


def test_a_stored_number_that_differs_from_the_recomputed_one_is_detected():
    made = crowd(20)
    rows, responses = [row for row, _ in made], {row.id: group for row, group in made}
    assert largest_difference(rows, responses, "all") == 0.0
    rows[7] = replace(rows[7], weight=rows[7].weight - 0.125)
    assert largest_difference(rows, responses, "all") == pytest.approx(0.125)
