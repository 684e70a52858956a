"""The hand-off to training: the run's own folder, its settings beside it, and its steps as they are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import UserError
from tasks.stages import distill
from tests.training.small_run import example, small_run, write_small_dataset
from training.check import prepare
from training.config import run_folder


def settled(run: Any) -> str:
    return json.dumps(run.model_dump(mode="json"))


def test_the_check_tells_the_fingerprint_that_names_the_folder(tmp_path: Path) -> None:
    run = small_run(write_small_dataset(tmp_path / "dataset", [example(n) for n in range(4)]))
    said: list[str] = []
    found = distill.checked(tmp_path, settled(run), lambda _format, line: said.append(line))
    assert found == prepare(run).fingerprint and any(line.startswith("steps ") for line in said)
    assert json.loads((tmp_path / "RUN.json").read_text())["seed"] == 0
    assert run_folder(tmp_path, found) == tmp_path / found[:12]


def test_what_the_check_finds_is_the_sentence_of_the_stage(tmp_path: Path) -> None:
    run = small_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no exported dataset"):
        distill.checked(tmp_path, settled(run), lambda *_: None)


def test_lines_of_the_run_are_logged_and_its_steps_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []

    class Shown:
        def __init__(self, _name: str, total: int, *_: object, **__: object) -> None:
            self.total = total

        def at(self, step: int) -> None:
            shown.append(step)

        def shard_done(self, total: int) -> None:
            shown.append(-total)

        def finish(self) -> None:
            shown.append(0)

    monkeypatch.setattr(distill, "Progress", Shown)
    logged: list[str] = []
    lines = ["noise of an engine", "train: step 1 of 3, loss 0.5", "train: step 3 of 3, loss 0.4"]
    distill.follow(lines, lambda text, *values: logged.append(text % values))
    assert logged == ["distill: step 1 of 3, loss 0.5", "distill: step 3 of 3, loss 0.4"]
    assert shown == [1, 3, -3, 0]
