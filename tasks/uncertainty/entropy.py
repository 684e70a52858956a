"""Semantic entropy of a teacher's samples, weighted by probability (Kuhn et al. 2023, Farquhar et al. 2024) or by count.

With l_n = logprob_sum_n / token_count_n, p(c) is the share of exp(l_n) in cluster c, and H = -sum p(c) log p(c).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, fsum, isfinite, log


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticEntropy:
    """The semantic entropy of one problem.

    `entropy` and `discrete_entropy` (with p(c) the share of samples) are in nats; `weight` = 1 - entropy / log N is in
    [0, 1]; `cluster_probs[c]` is p(c) for label c. N is the number of samples with a label >= 0.
    """

    entropy: float
    weight: float
    discrete_entropy: float
    cluster_probs: tuple[float, ...]


def semantic_entropy(
    logprob_sums: Sequence[float], token_counts: Sequence[int], labels: Sequence[int]
) -> SemanticEntropy:
    """Return the entropy over the clusters given by `labels` (0, 1, ...; -1 excludes a sample from everything, N included).

    Computed in log space, without under- or overflow. The result is bit-identical for any order of the samples.

    Raises ValueError, naming the sample, for a log-probability that is positive or not finite or a token count below 1;
    also for lists of different length and for fewer than two samples with a label >= 0.
    """
    if not len(logprob_sums) == len(token_counts) == len(labels):
        raise ValueError(
            f"{len(logprob_sums)} sums, {len(token_counts)} token counts, {len(labels)} labels: give one of each per sample"
        )
    means = [
        _mean(index, *sample)
        for index, sample in enumerate(zip(logprob_sums, token_counts, labels, strict=True))
    ]
    used = [(label, mean) for label, mean in zip(labels, means, strict=True) if label >= 0]
    if len(used) < 2:
        raise ValueError(f"entropy needs at least 2 samples with a cluster, got {len(used)} of {len(labels)}")
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
    """Return the label of the largest cluster; of several, the one that appears first. Labels of -1 are ignored.

    Raises ValueError if all labels are -1.
    """
    votes = Counter(label for label in labels if label >= 0)
    if not votes:
        raise ValueError("no sample has a cluster, so there is no majority")
    return max(votes, key=votes.__getitem__)


def _mean(index: int, logprob_sum: float, token_count: int, label: int) -> float:
    """Return the length-normalised log-probability of one sample."""
    if token_count < 1:
        raise ValueError(f"sample {index} is empty (token count {token_count})")
    if not isfinite(logprob_sum) or logprob_sum > 0:
        raise ValueError(
            f"sample {index} has log-probability {logprob_sum}: need a finite number of at most 0"
        )
    if label < -1:
        raise ValueError(f"sample {index} has label {label}: need -1 (excluded), 0, 1, ...")
    return logprob_sum / token_count


def _logsumexp(values: Iterable[float]) -> float:
    listed = list(values)
    highest = max(listed)
    return highest + log(fsum(exp(value - highest) for value in listed))
