"""Trackers: what TensorBoard's own reader finds, and what wandb is given. A module of this test takes the place of wandb: it has
the functions that are used and writes what it is given into a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.errors import UserError
from tests.training.small_run import small_run
from training.reporters import open_reporters
from training.run_log import RunLog

WANDB = """
import json, os
from pathlib import Path

class Error(Exception):
    pass

class Settings:
    def __init__(self, *, console):
        self.console = console

class Run:
    def __init__(self, path):
        self._file = path.open("a")
    def define_metric(self, name, step_metric=None):
        self._note(define=[name, step_metric])
    def log(self, data):
        self._note(log=data)
    def finish(self):
        self._note(finish=True)
        self._file.close()
    def _note(self, **values):
        self._file.write(json.dumps(values) + "\\n")

def init(*, project, dir, id, name, resume, config, settings):
    if os.environ.get("WANDB_MODE") != "offline":
        raise Error("api_key not configured (no-tty).\\n  call wandb.login()")
    folder = Path(dir) / "wandb"
    folder.mkdir(exist_ok=True)
    run = Run(folder / f"offline-{id}.jsonl")
    run._note(init=[project, name, resume, settings.console], config=config)
    return run
"""
"""The part of wandb 0.30 that is used."""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    yield
    sys.modules.pop("wandb", None)


def log_steps(folder: Path, names: list[str], first: int, *steps: int) -> None:
    settings = small_run(Path("dataset")).identity()
    reporters = open_reporters(names, folder, first=first, settings=settings)
    with RunLog(folder, step=first - 1, steps=5, reporters=reporters) as run_log:
        for step in steps:
            shown = {"weight_mean": 1.0, "response_tokens_mean": 5.0}
            run_log.write({"step": step, "loss": step + first / 10, **shown})


def test_tensorboard_shows_repeated_steps_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_steps(tmp_path, ["tensorboard"], 1, 1, 2, 3)
    log_steps(tmp_path, ["tensorboard"], 3, 3, 4)  # continued after step 2
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(one.step, round(one.value, 3)) for one in events.Scalars("loss")]
    assert found == [(1, 1.1), (2, 2.1), (3, 3.3), (4, 4.3)]
    assert "step" not in events.Tags()["scalars"]


@pytest.mark.usefixtures("wandb")
def test_wandb_gets_settings_and_metrics_of_every_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "0123456789ab"
    folder.mkdir()
    log_steps(folder, ["wandb"], 1, 1, 2)
    log_steps(folder, ["wandb"], 2, 2)
    lines = (folder / "wandb/offline-0123456789ab.jsonl").read_text().splitlines()
    start, *rows = [json.loads(line) for line in lines]
    assert start["init"] == ["sure-math", "0123456789ab", "allow", "off"]
    assert start["config"]["algorithm"]["name"] == "uopd" and "output" not in start["config"]
    assert rows[:2] == [{"define": ["step", None]}, {"define": ["*", "step"]}]
    logged = [(row["log"]["step"], row["log"]["loss"]) for row in rows if "log" in row]
    assert logged == [(1, 1.1), (2, 2.1), (2, 2.2)]
    assert sum("finish" in row for row in rows) == 2


@pytest.mark.usefixtures("wandb")
def test_wandb_without_a_login_is_refused_in_one_sentence(tmp_path: Path) -> None:
    sentence = (
        r"^report_to: wandb did not start \(api_key not configured \(no-tty\)\. call wandb\.login\(\)\): run"
    )
    with pytest.raises(UserError, match=sentence):
        open_reporters(["wandb"], tmp_path, first=1, settings={})


@pytest.mark.usefixtures("wandb")
def test_wandb_is_imported_only_if_it_is_asked_for(tmp_path: Path) -> None:
    assert open_reporters([], tmp_path, first=1, settings={}) == []
    assert "wandb" not in sys.modules
