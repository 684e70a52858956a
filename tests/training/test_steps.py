"""The order of the phases of a step, tested with fake workers that record their calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tasks.errors import UserError
from tests.training.small_run import example, small_run, write_small_dataset
from training.data.batches import TokenSequence
from training.loop import _steps
from training.plan import ScoringPass
from training.preflight.check import Prepared, prepare
from training.rollouts.engine import Generation, RolloutRequest
from training.rollouts.saved import read_generations, write_generations
from training.run_log import RunLog, read_metrics
from training.scorers.scores import Scores, TopK
from training.student.group import RankBatches, Update
from training.worker_set import Workers

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

    def sync(self, _engines: object, version: int) -> None:
        assert version == self.version
        self.loaded = (self.weights, version)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", [example(n) for n in range(6)])


def prepared(dataset: Path, overlap: str, **algorithm: Any) -> Prepared:
    batches, rollouts = {"size": 2, "total_prompts": 2 * STEPS}, {"group_size": 2}
    return prepare(
        small_run(dataset, batches=batches, rollouts=rollouts, overlap=overlap, algorithm=algorithm)
    )


def steps(
    actors: Actors, run: Prepared, folder: Path, first: int = 0, saved: Sequence[Generation] = ()
) -> Iterator[tuple[int, Sequence[Generation]]]:
    with RunLog(folder, step=first, steps=STEPS) as run_log:
        yield from _steps(cast(Workers, actors), run, run_log, first, saved)


def test_on_policy_rollouts_come_from_the_weights_that_they_update(dataset: Path, tmp_path: Path) -> None:
    actors = Actors()
    done = list(steps(actors, prepared(dataset, "on_policy"), tmp_path))
    assert done == [(number, ()) for number in range(1, STEPS + 1)]
    assert [row["staleness"] for row in read_metrics(tmp_path)] == [0] * STEPS


def test_one_step_off_generates_the_next_batch_during_training(dataset: Path, tmp_path: Path) -> None:
    actors = Actors(together=True)
    done = list(steps(actors, prepared(dataset, "one_step_off"), tmp_path))
    assert [{one.version for one in coming} for _, coming in done] == [{0}, {1}, {2}, {3}, set()]
    rows = read_metrics(tmp_path)
    assert [row["staleness"] for row in rows] == [0, 1, 1, 1, 1]
    assert actors.batches_started == STEPS


@pytest.mark.parametrize("overlap", ["on_policy", "one_step_off"])
def test_the_reference_scores_every_rollout_in_its_own_phase(
    dataset: Path, tmp_path: Path, overlap: str
) -> None:
    run = prepared(dataset, overlap, reference_kl_coefficient=0.1)
    done = list(steps(Actors(with_reference=True), run, tmp_path))
    assert len(done) == STEPS
    assert all("seconds_reference" in row for row in read_metrics(tmp_path))


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_a_run_stopped_after_any_step_continues_like_an_uninterrupted_one(
    dataset: Path, tmp_path: Path, stop: int
) -> None:
    run = prepared(dataset, "one_step_off")
    whole = Actors()
    list(steps(whole, run, tmp_path / "whole"))
    first = Actors()
    for step, coming in steps(first, run, tmp_path / "part"):
        if step == stop:
            write_generations(tmp_path, coming)
            break
    second = Actors(first.weights, first.version)
    list(steps(second, run, tmp_path / "part", stop, read_generations(tmp_path)))
    assert second.weights == whole.weights
    stale = [
        [(row["staleness"], row["response_tokens"]) for row in read_metrics(tmp_path / name)] for name in ("part", "whole")
    ]  # fmt: skip
    assert stale[0] == stale[1]


@pytest.mark.parametrize("overlap", ["on_policy", "one_step_off"])
def test_rollouts_from_weights_that_are_too_old_end_the_run(
    dataset: Path, tmp_path: Path, overlap: str
) -> None:
    actors = Actors()
    actors.sync = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(UserError, match="a weight sync was skipped"):
        list(steps(actors, prepared(dataset, overlap), tmp_path))


def test_saved_rollouts_are_read_bit_by_bit(tmp_path: Path) -> None:
    saved = [
        Generation(
            tokens=np.array(tokens, dtype=np.int32), logprobs=np.array([-0.1] * len(tokens), dtype=np.float32),
            finish_reason=reason, version=7,
        )
        for tokens, reason in (([3, 1, 2], "stop"), ([9], "length"), ([], "stop"))
    ]  # fmt: skip
    assert read_generations(tmp_path) == ()
    write_generations(tmp_path, saved)
    for found, expected in zip(read_generations(tmp_path), saved, strict=True):
        assert (found.finish_reason, found.version) == (expected.finish_reason, expected.version)
        for one, other in ((found.tokens, expected.tokens), (found.logprobs, expected.logprobs)):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
