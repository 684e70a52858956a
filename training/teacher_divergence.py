"""The divergence of a student from its teacher at the tokens of responses where the teacher is uncertain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from training.data.batches import TokenSequence, batches_by_budget
from training.plan import ScoringPass
from training.scorers.scores import TopK
from training.worker_set import Workers

__all__ = ["TEACHER_HIGH_ENTROPY", "forward_kl", "high_entropy_divergence"]

TEACHER_HIGH_ENTROPY = 0.8
"""The teacher's entropy in nats from which a token counts as one of high entropy, as in EOPD's forward KL over the training."""
PART_TOKENS = 16_384
"""Tokens, padding included, that are scored at once: the teacher's top 512 of so many have 67 MB, as have the student's ids and
log-probabilities."""
ROUNDING = 1e-6
"""Rounding error of a sum of float32 probabilities. A smaller remaining probability is not known."""


def forward_kl(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Return KL(teacher || student) [T] in nats (float64) from the log-probabilities [T, k] of both, of their full softmaxes, at
    the same k different tokens.

    The other tokens count as one: sum_j p_j log(p_j / q_j) + r log(r / s), where r = 1 - sum_j p_j and s = 1 - sum_j q_j, both at
    least `ROUNDING`. Up to rounding that is at most the divergence over the whole vocabulary, by the log sum inequality (Cover
    and Thomas, Elements of Information Theory, Theorem 2.7.1), and equal to it if the k tokens are the whole vocabulary.
    """
    log_p, log_q = teacher.astype(np.float64), student.astype(np.float64)
    r, s = (np.maximum(1.0 - np.exp(one).sum(-1), ROUNDING) for one in (log_p, log_q))
    return (np.exp(log_p) * (log_p - log_q)).sum(-1) + r * np.log(r / s)


def high_entropy_divergence(
    workers: Workers, one: ScoringPass, sequences: Sequence[TokenSequence]
) -> float | None:
    """Return the mean of `forward_kl` over the response tokens where the teacher's entropy is at least `TEACHER_HIGH_ENTROPY`;
    None if there are none. `one`: a pass of the run's only teacher that gives a top k and the entropy."""
    lengths = [len(sequence.tokens) for sequence in sequences]
    parts = batches_by_budget(lengths, max(PART_TOKENS, *lengths))
    found = [
        values
        for number, part in enumerate(parts)
        for values in _divergences(workers, one, [sequences[index] for index in part], number)
    ]
    divergences = np.concatenate(found)
    return float(divergences.mean()) if len(divergences) else None


def _divergences(
    workers: Workers, one: ScoringPass, part: Sequence[TokenSequence], number: int
) -> Iterator[np.ndarray]:
    """Yield the divergences at the tokens of high entropy of each sequence."""
    given = [
        (scores.top_k, scores.entropy)
        for scores in workers.score(one, part, number).get()[0]
        if scores.top_k is not None and scores.entropy is not None
    ]
    own = workers.students.logprobs(part, ids=[_ids(top) for top, _ in given])
    for (top, entropy), logprobs in zip(given, own, strict=True):
        high = entropy >= TEACHER_HIGH_ENTROPY
        yield forward_kl(top.logprobs[high], logprobs[high])


def _ids(top: TopK) -> np.ndarray:
    """Return the ids [T, k] of a top k."""
    tokens, k = top.logprobs.shape
    return np.tile(np.arange(k, dtype=np.int32), (tokens, 1)) if top.ids is None else top.ids
