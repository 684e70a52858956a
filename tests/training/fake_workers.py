"""Fake workers: engines, students, teacher and reference in one object whose weights are one number."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import numpy as np

from training.data.batches import TokenSequence
from training.plan import ScoringPass
from training.rollouts.engine import Generation, RolloutRequest
from training.scorers.scores import Scores, TopK
from training.student.group import RankBatches, Update

STEPS, K = 5, 2
PATIENCE_S = 30.0


class Scored:
    """The scores of one pass: a top k for the teacher, -n for a token with id n for the reference."""

    def __init__(self, one: ScoringPass, sequences: Sequence[TokenSequence]) -> None:
        self._reference, self._responses = one.worker == "reference", [given.response for given in sequences]

    def get(self) -> tuple[list[Scores], float]:
        if self._reference:
            return [Scores(sampled=-ids.astype(np.float32)) for ids in self._responses], 0.0
        ids = np.arange(K, dtype=np.int32)
        return [
            Scores(top_k=TopK(logprobs=np.full((len(n), K), -1.0, np.float32), ids=np.tile(ids, (len(n), 1))))
            for n in self._responses
        ], 0.0


class Actors:
    """Fake engines, students and teacher in one object. As in a real run, rollouts depend on seeds and weights, and the weights
    (here one number) on the rollouts. `together`: an update ends only after generation of the next batch has begun.
    `with_reference`: every update must receive the log-probabilities of a reference."""

    def __init__(
        self, weights: float = 0.0, version: int = 0, *, together: bool = False, with_reference: bool = False
    ) -> None:
        self.with_reference = with_reference
        self.students = self.engines = self
        self.weights, self.version, self.together = weights, version, together
        self.loaded = (weights, version)
        self.batches_started = version
        self.changed = threading.Condition()

    def stream(
        self, requests: Sequence[RolloutRequest], _sampling: object
    ) -> Iterator[tuple[int, Generation]]:
        with self.changed:
            self.batches_started += 1
            self.changed.notify_all()
        weights, version = self.loaded
        for index in reversed(range(len(requests))):
            random = np.random.default_rng([requests[index].seed % 2**32, round(weights * 1000)])
            length = int(random.integers(2, 9))
            yield (
                index,
                Generation(
                    tokens=random.integers(0, 50, length).astype(np.int32), logprobs=-random.random(length, np.float32),
                    finish_reason="stop", version=version,
                ),
            )  # fmt: skip

    def score(self, one: ScoringPass, sequences: Sequence[TokenSequence], part: int) -> Scored:
        return Scored(one, sequences)

    def step_in_parts(self, parts: Sequence[Callable[[], RankBatches]]) -> Update:
        given = [part() for part in parts]
        if self.together and self.version + 1 < STEPS:
            with self.changed:
                assert self.changed.wait_for(lambda: self.batches_started >= self.version + 2, PATIENCE_S)
        batches = [batch for ranks in given for rank in ranks for batch in rank]
        for batch in batches:
            reference = batch.signals.get("reference_logprobs")
            assert (reference is not None) == self.with_reference
            assert reference is None or reference.tolist() == [
                -n for one in batch.sequences for n in one.response
            ]
        self.weights += sum(int(one.response.sum()) for batch in batches for one in batch.sequences)
        self.version += 1
        trained = tuple((batch, {}) for batch in batches)
        return Update(
            step=self.version,
            loss=0.0,
            learning_rate=1.0,
            gradient_norm=1.0,
            seconds=1.0,
            memory=0,
            trained=trained,
        )

    def sync(self, _engines: object, version: int) -> SimpleNamespace:
        assert version == self.version
        self.loaded = (self.weights, version)
        return SimpleNamespace(checksum=int(self.weights))
