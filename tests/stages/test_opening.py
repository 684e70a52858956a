"""One run at a time writes into an output folder: a build takes its lock, as an annotation does."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.config import load_config
from tasks.errors import UserError
from tasks.runtime.driver import Run
from tasks.stages import opening
from tasks.stages.annotation import annotation_lock
from tasks.stages.opening import open_run
from tasks.storage.artifacts import Store
from tasks.storage.locks import alone, read_note
from tasks.storage.ownership import RUN_LOCK


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "require_ready", lambda *_, **__: None)


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def target_of(root: Path) -> int:
    return json.loads((root / "config.json").read_text())["select"]["target"]


def test_a_second_build_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "out"
    with open_run("pocket", {"run.output": str(root), "select.target": 50}):
        before = names(root)
        assert read_note(root / RUN_LOCK)["what"] == "a build"
        second = open_run("pocket", {"run.output": str(root), "select.target": 60})
        with (
            pytest.raises(UserError, match=r"a build is already running in .*out .*has changed nothing"),
            second,
        ):
            pytest.fail("two builds in one folder")
        assert names(root) == before == {RUN_LOCK, "owner.json", "config.json"}
        assert target_of(root) == 50
    with open_run("pocket", {"run.output": str(root), "select.target": 60}):
        assert target_of(root) == 60


def test_a_new_folder_is_not_claimed_by_a_build_that_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "out"
    with (
        alone(root / RUN_LOCK, "an annotation"),
        pytest.raises(UserError, match="an annotation is already running"),
        open_run("pocket", {"run.output": str(root)}),
    ):
        pytest.fail("a build during an annotation")
    assert names(root) == {RUN_LOCK}


def test_a_build_and_an_annotation_exclude_each_other(tmp_path: Path) -> None:
    root = tmp_path / "out"
    run = Run(config=load_config("pocket"), store=Store(root), identities={})
    with (
        open_run("pocket", {"run.output": str(root)}),
        pytest.raises(UserError, match="a build is already running"),
        annotation_lock(run, "a re-annotation"),
    ):
        pytest.fail("an annotation during a build")
    with (
        annotation_lock(run, "a re-annotation"),
        pytest.raises(UserError, match="a re-annotation is already running"),
        open_run("pocket", {"run.output": str(root)}),
    ):
        pytest.fail("a build during an annotation")


def test_with_the_setting_a_second_build_says_that_it_waits_and_then_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root, logger = tmp_path / "out", logging.getLogger("builds")
    monkeypatch.setattr(opening, "FlowRunContext", SimpleNamespace(get=object))
    monkeypatch.setattr(opening, "get_run_logger", lambda: logger)
    monkeypatch.setattr(opening, "checking", opening.nullcontext)
    first = open_run("pocket", {"run.output": str(root), "select.target": 50})
    first.__enter__()
    ending = threading.Timer(0.7, lambda: first.__exit__(None, None, None))
    ending.start()
    started = time.monotonic()
    waiting = {"run.output": str(root), "select.target": 60, "run.lock_wait_s": 30}
    with caplog.at_level(logging.INFO, "builds"), open_run("pocket", waiting):
        assert time.monotonic() - started >= 0.6 and target_of(root) == 60
    ending.join()
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("a build is already running in ") and line.endswith(
        "waiting up to 30 s for it to finish"
    )


def test_the_time_to_wait_is_not_part_of_the_identity() -> None:
    assert load_config("pocket", {"run.lock_wait_s": 30}).identity() == load_config("pocket").identity()
