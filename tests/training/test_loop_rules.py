"""Rules of the training loop that need no engine: stopping, locking, and a diverged student."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.storage.locks import alone
from tests.training.small_run import example, small_run, write_small_dataset
from training import loop
from training.config import run_folder
from training.preflight.check import prepare
from training.student.group import Update
from training.workers.actors import ActorLost


def update(**changes: float) -> Update:
    made = Update(step=7, loss=0.5, learning_rate=1e-4, gradient_norm=1.0, seconds=1.0, memory=0, trained=())
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "broken", [{"loss": float("nan")}, {"gradient_norm": float("inf")}, {"loss": -float("inf")}]
)
def test_a_student_that_diverged_is_not_saved(broken: dict[str, float]) -> None:
    loop._check_finite(update(), 6)
    with pytest.raises(
        UserError, match=r"step 7 has loss .* at learning rate 0.0001, the student has diverged: lower"
    ):
        loop._check_finite(update(**broken), 6)


def test_a_requested_stop_does_not_restart_a_dead_worker() -> None:
    lost = ActorLost("a student", "killed")
    with pytest.raises(ActorLost), loop._stop_on_signals():
        raise lost
    sentence = r"stopped at the last checkpoint \(a student died: killed\): start again to continue"
    with pytest.raises(loop.Stopped, match=sentence), loop._stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise lost


def test_a_stop_request_while_results_are_written_takes_effect_immediately() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(loop.Stopped, match="after the last step"), loop._stop_on_signals() as stop:
        stop.at_once = "stopped after the last step"
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("continued")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_folder_is_used_by_one_process_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(write_small_dataset(tmp_path / "dataset", [example(1)]), output=str(tmp_path / "out"))
    monkeypatch.setattr(loop, "LOCK_WAIT_S", 0.0)
    monkeypatch.setattr(loop, "_train_with_restarts", lambda *_: pytest.fail("two at once"))
    folder = run_folder(config.output, prepare(config).fingerprint)
    # the lock belongs to the open file, so a process can block itself
    with (
        alone(folder / loop.LOCK, "a distillation run"),
        pytest.raises(UserError, match=r"a distillation run is already running in "),
    ):
        loop.run(config)
