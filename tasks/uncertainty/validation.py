"""Validation statistics of an annotation. Pure; all entropies are in nats, all intervals at 95%.

Annotated problems are compared with the ground truth, the judge with Math-Verify, and weights with weights from fewer
samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import sqrt
from statistics import fmean, median
from typing import Final, Literal

import numpy as np

from tasks.answers.mathverify import verify
from tasks.answers.notation import MAX_LENGTH, normalise
from tasks.problems.verdicts import BadReply, parse_equivalence
from tasks.rows import Example, JudgedPair, Response
from tasks.uncertainty.auroc import Area, aurc, auroc_gain, auroc_if_defined
from tasks.uncertainty.measures import Scope, uncertainties

MEASURES: Final[Mapping[str, str]] = {
    "semantic_entropy": "semantic entropy H",
    "discrete_entropy": "count-based entropy",
    "predictive_entropy": "predictive entropy",
    "normalised_entropy": "length-normalised predictive entropy",
    "negative_mean_logprob": "negative mean log-probability of a token",
    "one_minus_majority_share": "1 - majority share",
}
"""H and the measures that are compared with it; for each, a larger value is less certain."""

STORED: Final = (
    "semantic_entropy", "weight", "discrete_entropy", "predictive_entropy", "normalised_entropy", "mean_logprob",
    "majority_share",
)  # fmt: skip
Kind = Literal["majority", "sample"]
OWN: Final = "semantic_entropy"
SIZES: Final = (4, 8, 16)
BINS: Final = 10
_Z: Final = 1.959963984540054  # quantile for a two-sided 95% interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One problem with a ground truth: its annotation, and how often the teacher was right."""

    tier: str
    weight: float
    scores: Mapping[str, float]  # by the keys of MEASURES
    majority_right: bool
    right: int  # correct samples out of `samples`
    samples: int


def measures(row: Example) -> dict[str, float]:
    """Return the scores of one exported row, by the keys of MEASURES."""
    return {
        "semantic_entropy": row.semantic_entropy,
        "discrete_entropy": row.discrete_entropy,
        "predictive_entropy": row.predictive_entropy,
        "normalised_entropy": row.normalised_entropy,
        "negative_mean_logprob": -row.mean_logprob,
        "one_minus_majority_share": 1.0 - row.majority_share,
    }


# --- detection of wrong answers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """How well one measure detects errors. `gain` is the AUROC of H minus that of this measure, on the same resamples."""

    measure: str
    auroc: Area | None  # None: there are no errors, or only errors
    gain: Area | None  # None for H itself
    aurc: Area


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Detection of wrong majorities, or of wrong samples (each with the score of its problem).

    `best_aurc` is the smallest area that a score per problem can reach; wrong / total is the area of a random score.
    """

    problems: int
    wrong: int
    total: int
    best_aurc: float
    detections: tuple[Detection, ...]


def detect(rows: Sequence[Checked], target: Kind) -> Target:
    """Return AUROC and AURC of every measure, with bootstrap intervals over problems. `rows` must not be empty."""
    wrong, totals = errors(rows, target)
    scores = {name: [row.scores[name] for row in rows] for name in MEASURES}
    both = 0 < sum(wrong) < sum(totals)

    def detection(name: str) -> Detection:
        return Detection(
            measure=name,
            auroc=auroc_if_defined(scores[name], wrong, totals),
            gain=auroc_gain(scores[OWN], scores[name], wrong, totals) if both and name != OWN else None,
            aurc=aurc(scores[name], wrong, totals),
        )

    shares = [bad / total for bad, total in zip(wrong, totals, strict=True)]
    return Target(
        problems=len(rows),
        wrong=sum(wrong),
        total=sum(totals),
        best_aurc=aurc(shares, wrong, totals, resamples=1).value,
        detections=tuple(detection(name) for name in MEASURES),
    )


def errors(rows: Sequence[Checked], target: Kind) -> tuple[list[int], list[int]]:
    """Return the number of wrong members and of members of every problem."""
    if target == "majority":
        return [int(not row.majority_right) for row in rows], [1] * len(rows)
    return [row.samples - row.right for row in rows], [row.samples for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class TierResult:
    """The result of one tier. An AUROC over all tiers is also raised by separating easy tiers from hard ones."""

    tier: str
    problems: int
    mean_weight: float
    majority_right: int
    auroc: Area | None  # AUROC of H for wrong majorities


def by_tier(rows: Sequence[Checked], tiers: Sequence[str]) -> tuple[TierResult, ...]:
    """Return the results of H within each of `tiers` that has problems, in order."""
    groups = [(tier, [row for row in rows if row.tier == tier]) for tier in tiers]
    return tuple(
        TierResult(
            tier=tier,
            problems=len(group),
            mean_weight=fmean(row.weight for row in group),
            majority_right=sum(row.majority_right for row in group),
            auroc=auroc_if_defined(
                [row.scores[OWN] for row in group], [not row.majority_right for row in group]
            ),
        )
        for tier, group in groups
        if group
    )


# --- weight against accuracy -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The problems with low <= w < high (the last bin includes w = 1). The interval of `majority` is Wilson's."""

    low: float
    high: float
    problems: int
    mean_weight: float
    majority: float  # share of correct majorities
    majority_low: float
    majority_high: float
    sample: float  # share of correct samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """The non-empty bins, and the expected calibration errors: the mean over problems of |accuracy - mean w| of their bin.

    A small error means that w can be read as the probability that the majority (or a sample) is correct. w is not
    designed as such a probability.
    """

    bins: tuple[Bin, ...]
    majority_error: float
    sample_error: float


def reliability(rows: Sequence[Checked], bins: int = BINS) -> Reliability:
    """Return the accuracy by weight, in `bins` bins of equal width on [0, 1]. `rows` must not be empty."""
    places = [min(bins - 1, int(row.weight * bins)) for row in rows]
    groups = {
        place: [row for row, own in zip(rows, places, strict=True) if own == place]
        for place in sorted(set(places))
    }
    found = tuple(_bin(place / bins, (place + 1) / bins, group) for place, group in groups.items())

    def error(accuracy: Callable[[Bin], float]) -> float:
        return sum(one.problems * abs(accuracy(one) - one.mean_weight) for one in found) / len(rows)

    return Reliability(
        bins=found, majority_error=error(lambda one: one.majority), sample_error=error(lambda one: one.sample)
    )


def _bin(low: float, high: float, group: Sequence[Checked]) -> Bin:
    right = sum(row.majority_right for row in group)
    bottom, top = wilson(right, len(group))
    return Bin(
        low=low,
        high=high,
        problems=len(group),
        mean_weight=fmean(row.weight for row in group),
        majority=right / len(group),
        majority_low=bottom,
        majority_high=top,
        sample=sum(row.right for row in group) / sum(row.samples for row in group),
    )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share (Wilson 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, spread = successes / trials, _Z * _Z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


# --- weights at different sample sizes ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SizePair:
    """Comparison of w from the first `small` samples with w from the first `large`, over problems that have both."""

    small: int
    large: int
    problems: int
    spearman: float | None  # None: one of the two is constant
    mean_difference: float  # mean |w_small - w_large|


def stability(rows: Sequence[Example]) -> tuple[SizePair, ...]:
    """Compare every two of N = 4, 8, 16 for which at least one row has both weights."""
    found = []
    for small, large in combinations(SIZES, 2):
        by_size = [dict(zip(row.sizes, row.weight_by_size, strict=True)) for row in rows]
        pairs = [(sizes.get(small), sizes.get(large)) for sizes in by_size]
        both = [(one, two) for one, two in pairs if one is not None and two is not None]
        if both:
            found.append(
                SizePair(
                    small=small,
                    large=large,
                    problems=len(both),
                    spearman=spearman([one for one, _ in both], [two for _, two in both]),
                    mean_difference=sum(abs(one - two) for one, two in both) / len(both),
                )
            )
    return tuple(found)


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, with mean ranks for ties; None if either list is constant."""
    a, b = (_ranks(values) for values in (first, second))
    scale = sqrt(float((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else None


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Return the ranks minus their mean."""
    _, places, counts = np.unique(
        np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True
    )
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[places]
    return ranks - ranks.mean()


# --- the judge ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCheck:
    """Two answers and the verdicts of the judge and Math-Verify on them; None: no decision."""

    first: str
    second: str
    judge: bool | None
    verify: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement of the judge with Math-Verify. The four counts are of the pairs that both decided."""

    pairs: int
    judge_decided: int
    verify_decided: int
    both_same: int
    both_different: int
    only_judge_same: int
    only_verify_same: int
    rate: float | None  # None: both decided no pair
    low: float
    high: float
    kappa: float | None  # Cohen's kappa; None: one of them always gives the same verdict
    disagreements: tuple[PairCheck, ...]

    @property
    def both(self) -> int:
        """The number of pairs that both decided."""
        return self.both_same + self.both_different + self.only_judge_same + self.only_verify_same


def check_pair(pair: JudgedPair, timeout_s: float) -> PairCheck:
    """Return both verdicts on one judged pair.

    The judge decides if both orders gave the same verdict. Math-Verify decides if it can read both answers (it finds each
    equal to itself) and finishes within `timeout_s`.
    """
    replies = [parse_equivalence(reply, "stop") for reply in (pair.forward, pair.backward)]
    unclear = pair.flipped or any(isinstance(reply, BadReply) for reply in replies)
    first, second = normalise(pair.first), normalise(pair.second)
    readable = _readable(first, timeout_s) and _readable(second, timeout_s)
    return PairCheck(
        first=pair.first,
        second=pair.second,
        judge=None if unclear else pair.equivalent,
        verify=verify(first, second, timeout_s) if readable else None,
    )


@lru_cache(maxsize=16384)
def _readable(answer: str, timeout_s: float) -> bool:
    """Return whether Math-Verify can read a normalised answer."""
    return len(answer) <= MAX_LENGTH and verify(answer, answer, timeout_s) is True


def agreement(checks: Sequence[PairCheck], shown: int = 20) -> Agreement:
    """Return counts, rate with Wilson's interval, kappa, and the first `shown` disagreements."""
    both = [check for check in checks if check.judge is not None and check.verify is not None]
    counts = {
        (judge, verify): sum((check.judge, check.verify) == (judge, verify) for check in both)
        for judge in (True, False)
        for verify in (True, False)
    }
    agreed = counts[True, True] + counts[False, False]
    low, high = wilson(agreed, len(both))
    return Agreement(
        pairs=len(checks),
        judge_decided=sum(check.judge is not None for check in checks),
        verify_decided=sum(check.verify is not None for check in checks),
        both_same=counts[True, True],
        both_different=counts[False, False],
        only_judge_same=counts[True, False],
        only_verify_same=counts[False, True],
        rate=agreed / len(both) if both else None,
        low=low,
        high=high,
        kappa=_kappa(counts, len(both)),
        disagreements=tuple(check for check in both if check.judge != check.verify)[:shown],
    )


def _kappa(counts: Mapping[tuple[bool, bool], int], total: int) -> float | None:
    judge = counts[True, True] + counts[True, False]
    verify = counts[True, True] + counts[False, True]
    if total == 0 or judge in (0, total) or verify in (0, total):
        return None
    chance = (judge * verify + (total - judge) * (total - verify)) / total**2
    return ((counts[True, True] + counts[False, False]) / total - chance) / (1 - chance)


# --- distribution ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Semantic entropy of one group of problems."""

    group: str
    problems: int
    mean: float
    median: float
    certain: float  # share with H = 0: all samples agree


def spread(group: str, entropies: Sequence[float]) -> Spread:
    """Summarise the entropies of a non-empty group."""
    return Spread(
        group=group,
        problems=len(entropies),
        mean=fmean(entropies),
        median=median(entropies),
        certain=sum(value == 0.0 for value in entropies) / len(entropies),
    )


# --- stored values -----------------------------------------------------------------------------------------------


def largest_difference(
    rows: Sequence[Example], responses: Mapping[str, Sequence[Response]], scope: Scope
) -> float:
    """Return the largest absolute difference between the measures stored in the rows and recomputed ones.

    They are recomputed from the responses (in order) and the stored cluster labels.
    """
    return max((_difference(row, responses[row.id], scope) for row in rows), default=0.0)


def _difference(row: Example, responses: Sequence[Response], scope: Scope) -> float:
    again = uncertainties(responses, row.cluster_labels, scope=scope)
    return max(abs(getattr(row, name) - getattr(again, name)) for name in STORED)
