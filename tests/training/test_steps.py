"""The order of the phases of a step, tested with fake workers that record their calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tasks.errors import UserError
from tests.training.fake_workers import STEPS, Actors
from tests.training.small_run import example, small_run, write_small_dataset
from training.loop import _steps
from training.preflight.check import Prepared, prepare
from training.rollouts.engine import Generation
from training.rollouts.saved import read_generations, write_generations
from training.run_log import RunLog, read_metrics
from training.worker_set import Workers


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
        for done in _steps(cast(Workers, actors), run, first, saved):
            run_log.write(done.metrics)
            yield done.step, done.upcoming


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
    actors.sync = lambda *_: SimpleNamespace(checksum=0)  # type: ignore[method-assign]
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
