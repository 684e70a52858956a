"""Semantic entropy of a teacher's samples, weighted by probability (Kuhn et al. 2023, Farquhar et al. 2024) and by count.

With l_n = logprob_sum_n / token_count_n: p(c) is the share of exp(l_n) that falls in cluster c, H = -sum p(c) log p(c).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, fsum, isfinite, log


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticEntropy:
    """`entropy` and `discrete_entropy` (where p(c) is the share of samples) in nats; `weight` = 1 - entropy / log N in [0, 1].

    `cluster_probs[c]` is p(c) for label c. N is the number of samples that take part, those with a label >= 0.
    """

    entropy: float
    weight: float
    discrete_entropy: float
    cluster_probs: tuple[float, ...]


def semantic_entropy(
    logprob_sums: Sequence[float], token_counts: Sequence[int], labels: Sequence[int]
) -> SemanticEntropy:
    """Entropy over the clusters given by `labels` (0, 1, ...; -1 leaves a sample out of everything, N included).

    In log space, so that sums of any size neither under- nor overflow; the order of samples changes no bit.
    ValueError, naming the sample, for a log-probability that is positive or not finite or a token count below 1; also
    for lists of different length and for fewer than two samples that take part.
    """
    if not len(logprob_sums) == len(token_counts) == len(labels):
        raise ValueError(
            f"{len(logprob_sums)} sums, {len(token_counts)} token counts and {len(labels)} labels: need as many"
        )
    means = [
        _mean(index, *sample)
        for index, sample in enumerate(zip(logprob_sums, token_counts, labels, strict=True))
    ]
    used = [(label, mean) for label, mean in zip(labels, means, strict=True) if label >= 0]
    if len(used) < 2:
        raise ValueError(f"entropy needs at least 2 samples that take part, got {len(used)} of {len(labels)}")
    clusters: dict[int, list[float]] = {}
    for label, mean in used:
        clusters.setdefault(label, []).append(mean)
    total = _logsumexp(mean for _, mean in used)
    log_probs = {label: _logsumexp(members) - total for label, members in clusters.items()}
    entropy = max(0.0, -fsum(exp(value) * value for value in log_probs.values()))
    sizes = [len(members) / len(used) for members in clusters.values()]
    return SemanticEntropy(
        entropy=entropy,
        weight=min(1.0, max(0.0, 1.0 - entropy / log(len(used)))),
        discrete_entropy=max(0.0, -fsum(size * log(size) for size in sizes)),
        cluster_probs=tuple(
            exp(log_probs[label]) if label in log_probs else 0.0 for label in range(max(clusters) + 1)
        ),
    )


def majority(labels: Sequence[int]) -> int:
    """The label of the largest cluster; ties go to the one that appears first. -1 has no vote; ValueError if nothing else."""
    votes = Counter(label for label in labels if label >= 0)
    if not votes:
        raise ValueError("no sample has a cluster, so there is no majority")
    return max(votes, key=votes.__getitem__)


def _mean(index: int, logprob_sum: float, token_count: int, label: int) -> float:
    """Length-normalised log-probability of one sample."""
    if token_count < 1:
        raise ValueError(f"sample {index} is empty (token count {token_count})")
    if not isfinite(logprob_sum) or logprob_sum > 0:
        raise ValueError(
            f"sample {index} has log-probability {logprob_sum}: need a finite number of at most 0"
        )
    if label < -1:
        raise ValueError(f"sample {index} has label {label}: need -1 (left out), 0, 1, ...")
    return logprob_sum / token_count


def _logsumexp(values: Iterable[float]) -> float:
    listed = list(values)
    highest = max(listed)
    return highest + log(fsum(exp(value - highest) for value in listed))
