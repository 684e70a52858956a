"""Trackers: what TensorBoard's own reader finds, and what wandb writes in offline mode."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tests.training.small_run import small_run
from training.reporters import open_reporters
from training.run_log import RunLog


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


def records(path: Path) -> Iterator[Any]:
    """Yield the records of an offline run of wandb: a log in the format of LevelDB, in blocks of 32 KiB."""
    record: Any = import_module("wandb.proto.wandb_internal_pb2").Record
    data, place, found = path.read_bytes(), 7, b""  # after the header of the file
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        found += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record.FromString(found)
            found = b""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of a run, with a home in which wandb has no login."""
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    made = tmp_path / "0123456789ab"
    made.mkdir()
    yield made
    wandb.teardown()  # it keeps the environment of its first use


def test_wandb_gets_settings_and_metrics_of_every_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_steps(folder, ["wandb"], 1, 1, 2)
    log_steps(folder, ["wandb"], 2, 2, 3)  # continued after step 1
    import_module("wandb").teardown()  # its process may still be writing after the end of a run
    found = [one for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")) for one in records(path)]
    runs = [one.run for one in found if one.HasField("run")]
    assert {(run.run_id, run.project) for run in runs} == {("0123456789ab", "sure-math")}
    config = {one.key: json.loads(one.value_json) for one in runs[0].config.update}
    assert config["algorithm"]["name"] == "uopd" and "output" not in config
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in found
        if one.HasField("history")
    ]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.1), (2, 2.1), (2, 2.2), (3, 3.2)]
    axes = {
        one.metric.glob_name or one.metric.name: one.metric.step_metric
        for one in found
        if one.HasField("metric")
    }
    assert axes == {"step": "", "*": "step"}


def test_wandb_without_a_login_is_refused_in_one_sentence(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"^report_to: wandb did not start \(.*\): run `wandb login`, set"
    ) as refused:
        open_reporters(["wandb"], folder, first=1, settings={})
    assert "\n" not in str(refused.value)


def test_wandb_is_imported_only_if_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import raises
    log_steps(tmp_path, ["tensorboard"], 1, 1)
    with pytest.raises(ImportError):
        open_reporters(["wandb"], tmp_path, first=1, settings={})
