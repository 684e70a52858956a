"""The forward KL from a teacher's top k against the whole distributions in float64, and its mean at tokens of high entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from training.data.batches import TokenSequence
from training.plan import ScoringPass
from training.scorers.scores import ScoreRequest, Scores, TopK
from training.teacher_divergence import forward_kl, high_entropy_divergence
from training.worker_set import Workers

T, V = 50, 64
PASS = ScoringPass(worker="teacher", view="plain", request=ScoreRequest(top_k=2, entropy=True), scorers=())


def distributions(seed: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return random log p and log q [T, V], float64."""
    logits = scale * np.random.default_rng(seed).normal(size=(2, T, V))
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logprobs[0], logprobs[1]


def naive_kl(log_p: np.ndarray, log_q: np.ndarray) -> list[float]:
    """Return KL(p || q) of each row by its definition, entry by entry."""
    return [
        math.fsum(math.exp(a) * (a - b) for a, b in zip(*pair, strict=True))
        for pair in zip(log_p.tolist(), log_q.tolist(), strict=True)
    ]


def top(log_p: np.ndarray, log_q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both at the k most probable tokens of the first, in float32 as the workers return them."""
    ids = np.argsort(-log_p, axis=-1)[:, :k]
    both = (np.take_along_axis(one, ids, -1).astype(np.float32) for one in (log_p, log_q))
    return next(both), next(both)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_with_the_whole_vocabulary_it_is_the_divergence(scale: float) -> None:
    log_p, log_q = distributions(0, scale)
    found = forward_kl(*top(log_p, log_q, V))
    np.testing.assert_allclose(found, naive_kl(log_p, log_q), rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_with_fewer_tokens_it_is_that_of_the_merged_distributions_and_a_bound(scale: float) -> None:
    log_p, log_q = distributions(1, scale)
    whole, last = np.array(naive_kl(log_p, log_q)), np.zeros(T)
    for k in (1, 2, 8, V - 1):
        found = forward_kl(*top(log_p, log_q, k))
        order = np.argsort(-log_p, axis=-1)
        merged = [
            np.concatenate(
                [ranked[:, :k], np.logaddexp.reduce(ranked[:, k:], axis=-1, keepdims=True)], axis=-1
            )
            for ranked in (np.take_along_axis(one, order, -1) for one in (log_p, log_q))
        ]
        np.testing.assert_allclose(found, naive_kl(merged[0], merged[1]), rtol=1e-4, atol=1e-5)
        assert (found <= whole + 1e-5).all() and (found >= last - 1e-5).all(), (
            "more tokens give at least as much"
        )
        last = found
    assert (forward_kl(*top(log_p, log_q, 1)) < whole - 1e-4).any()


def test_equal_distributions_have_no_divergence_and_rounding_in_the_rest_does_not_count() -> None:
    log_p, log_q = distributions(2, 1.0)
    assert np.abs(forward_kl(log_p, log_p)).max() == 0.0
    shifted = forward_kl(log_p + 3e-7, log_q - 3e-7)  # sums of 1 + 3e-7 and 1 - 3e-7
    np.testing.assert_allclose(shifted, naive_kl(log_p, log_q), rtol=1e-5, atol=2e-6)
    assert forward_kl(log_p[:0], log_q[:0]).shape == (0,)


class Models:
    """A teacher with p = (1/2, 1/4, ...) and the entropy 0.1 n nats at a token with id n, and a student with log q = -id of any
    token. The teacher's top 2 at token n are n and n + 1."""

    def __init__(self) -> None:
        self.students = self
        self.parts: list[int] = []

    def score(self, one: ScoringPass, sequences: Sequence[TokenSequence], part: int) -> Any:
        assert one is PASS and part == len(self.parts)
        self.parts.append(len(sequences))
        found = [
            Scores(
                top_k=TopK(
                    logprobs=np.tile(np.log(np.array([0.5, 0.25], np.float32)), (len(given.response), 1)),
                    ids=given.response[:, None] + np.arange(2, dtype=np.int32),
                ),
                entropy=given.response.astype(np.float32) * np.float32(0.1),
            )
            for given in sequences
        ]
        return SimpleNamespace(get=lambda: (found, 0.0))

    def logprobs(self, sequences: Sequence[TokenSequence], *, ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert [len(one) for one in ids] == [len(one.response) for one in sequences]
        return [-one.astype(np.float32) for one in ids]


def sequence(*response: int) -> TokenSequence:
    return TokenSequence(tokens=np.array([3, *response], dtype=np.int32), prompt_length=1)


def expected(token: int) -> float:
    q = math.exp(-token), math.exp(-token - 1)
    rest = 0.25 * math.log(0.25 / (1 - sum(q)))
    return 0.5 * math.log(0.5 / q[0]) + 0.25 * math.log(0.25 / q[1]) + rest


@pytest.mark.parametrize(("tokens", "parts"), [(18, [3]), (17, [2, 1]), (1, [1, 2])])
def test_the_mean_is_over_the_tokens_of_high_entropy_whatever_the_parts(
    tokens: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.teacher_divergence.PART_TOKENS", tokens)
    models = Models()
    found = high_entropy_divergence(
        cast(Workers, models), PASS, [sequence(1, 9), sequence(2, 7, 8, 3, 8), sequence(5)]
    )
    assert found == pytest.approx((2 * expected(8) + expected(9)) / 3, rel=1e-6), "0.8 counts"
    assert models.parts == parts


def test_without_a_token_of_high_entropy_there_is_no_value() -> None:
    found = high_entropy_divergence(cast(Workers, Models()), PASS, [sequence(1, 7), sequence(2)])
    assert found is None
