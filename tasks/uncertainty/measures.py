"""All measures of a teacher's uncertainty about one problem, computed from its N responses and their clusters.

Response n has log-probability sum s_n over t_n tokens (of the chosen scope), and l_n = s_n / t_n. Responses with label -1
are excluded; N is the number of the others. All entropies are in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, log
from typing import Final, Literal

from tasks.rows import Response
from tasks.uncertainty.entropy import SemanticEntropy, majority, semantic_entropy

Scope = Literal["all", "after_think", "answer"]
SIZES: Final = (2, 4, 8, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainties:
    """The measures of one problem.

    `semantic_entropy`, `weight`, `discrete_entropy`, `cluster_probs`: see `tasks.uncertainty.entropy`; p(c) = sum_{n in c}
    exp(l_n) / sum_n exp(l_n), H = -sum_c p(c) log p(c), w = 1 - H / log N; discrete: p(c) = |c| / N.
    `valid_entropy`: H over the responses that have an answer; None if fewer than two have one.
    `intra_entropy`: the entropy over texts within the clusters, sum_c p(c) H(text | c), where p(text | c) is the share
    of that text in the sum of exp(l_n) over c; H + intra_entropy is the entropy over texts (chain rule).
    `predictive_entropy`: -(1/N) sum_n s_n, a Monte Carlo estimate of the entropy over whole sequences.
    `normalised_entropy`: -(1/N) sum_n l_n, the length-normalised predictive entropy (Malinin and Gales 2021).
    `mean_logprob`: sum_n s_n / sum_n t_n, the mean log-probability of a token; higher is more certain.
    `majority_share`: the largest cluster's share of the N responses; 1 - majority_share is compared with H.
    """

    semantic_entropy: float
    weight: float
    discrete_entropy: float
    cluster_probs: tuple[float, ...]
    valid_entropy: float | None
    intra_entropy: float
    predictive_entropy: float
    normalised_entropy: float
    mean_logprob: float
    majority_share: float


def uncertainties(
    responses: Sequence[Response], labels: Sequence[int], *, scope: Scope = "all"
) -> Uncertainties:
    """Return all measures of one problem. `labels[i]` is the cluster of `responses[i]`, or -1.

    Raises ValueError like `semantic_entropy`: for fewer than two responses with a cluster, or an invalid log-probability.
    """
    whole = entropy(responses, labels, scope=scope)
    used = [(response, label) for response, label in zip(responses, labels, strict=True) if label >= 0]
    sums, counts = spans([response for response, _ in used], scope)
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    return Uncertainties(
        semantic_entropy=whole.entropy,
        weight=whole.weight,
        discrete_entropy=whole.discrete_entropy,
        cluster_probs=whole.cluster_probs,
        valid_entropy=_valid_entropy(responses, labels, scope),
        intra_entropy=_intra_entropy([(label, response.text) for response, label in used], means),
        predictive_entropy=-fsum(sums) / len(used),
        normalised_entropy=-fsum(means) / len(used),
        mean_logprob=fsum(sums) / sum(counts),
        majority_share=list(labels).count(majority(labels)) / len(used),
    )


def entropy(responses: Sequence[Response], labels: Sequence[int], *, scope: Scope = "all") -> SemanticEntropy:
    """Return the semantic entropy of one problem's responses, from the log-probabilities of the scope's tokens."""
    return semantic_entropy(*spans(responses, scope), labels)


def entropies_by_size(
    responses: Sequence[Response],
    labels: Sequence[int],
    *,
    scope: Scope = "all",
    sizes: Sequence[int] = SIZES,
) -> dict[int, SemanticEntropy | None]:
    """Return the semantic entropy of the first 2, 4, 8, ... responses, with the clusters of all responses.

    Sizes above the number of responses are omitted. An entropy is None if fewer than two of the first n have a cluster.
    """
    return {
        n: entropy(responses[:n], labels[:n], scope=scope) if sum(x >= 0 for x in labels[:n]) > 1 else None
        for n in sizes
        if n <= len(responses)
    }


def spans(responses: Sequence[Response], scope: Scope) -> tuple[list[float], list[int]]:
    """Return the log-probability sums and token counts of the scope.

    The scope is all tokens, those after the last `</think>`, or those of the content of the last box. For a response
    without such tokens all of its tokens are used.
    """
    pairs = [_span(response, scope) for response in responses]
    return [total for total, _ in pairs], [count for _, count in pairs]


def _span(response: Response, scope: Scope) -> tuple[float, int]:
    found = {
        "all": (response.logprob_sum, response.token_count),
        "after_think": (response.after_think_logprob_sum, response.after_think_token_count),
        "answer": (response.answer_logprob_sum, response.answer_token_count),
    }[scope]
    total, count = found
    return (response.logprob_sum, response.token_count) if total is None or count < 1 else (total, count)


def _valid_entropy(responses: Sequence[Response], labels: Sequence[int], scope: Scope) -> float | None:
    valid = [
        -1 if response.answer is None else label for response, label in zip(responses, labels, strict=True)
    ]
    return entropy(responses, valid, scope=scope).entropy if sum(label >= 0 for label in valid) > 1 else None


def _intra_entropy(keys: Sequence[tuple[int, str]], means: Sequence[float]) -> float:
    """Return the intra-cluster entropy. `keys[i]` is (cluster, text) of the i-th response with a cluster."""
    highest = max(means)
    shares: dict[int, dict[str, list[float]]] = {}
    for (label, text), mean in zip(keys, means, strict=True):
        shares.setdefault(label, {}).setdefault(text, []).append(exp(mean - highest))
    total = fsum(share for texts in shares.values() for found in texts.values() for share in found)
    inside = 0.0
    for texts in shares.values():
        weights = [fsum(found) for found in texts.values()]
        size = fsum(weights)
        inside -= fsum(weight / total * log(weight / size) for weight in weights if weight > 0.0)
    return max(0.0, inside)
