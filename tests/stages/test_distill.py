"""The hand-off to training: the run's own folder, its settings beside it, and its steps as they are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import UserError
from tasks.io.metrics import METRICS
from tasks.stages import distill
from tasks.stages.progress import LiveTable
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


def metrics(folder: Path, *steps: int) -> None:
    rows = [
        {"step": step, "loss": 1 / step, "weight_mean": 0.71, "seconds": 2.0, "other": 5.0} for step in steps
    ]
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_lines_of_the_run_are_logged_and_its_steps_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    tables: list[tuple[list[dict[str, str]], bool]] = []

    class Table:
        def __init__(self, *_: str) -> None: ...

        def show(self, rows: Any, *, last: bool = False) -> None:
            tables.append((rows(), last))

    class Shown:
        def __init__(self, _name: str, total: int, *_: object, **__: object) -> None:
            self.total = total

        def at(self, step: int) -> None:
            shown.append(step)

        def shard_done(self, total: int) -> None:
            shown.append(-total)

        def finish(self) -> None:
            shown.append(0)

    metrics(tmp_path, 1, 2, 3)
    monkeypatch.setattr(distill, "LiveTable", Table)
    monkeypatch.setattr(distill, "Progress", Shown)
    logged: list[str] = []
    lines = ["noise of an engine", "train: step 1 of 3, loss 0.5", "train: step 3 of 3, loss 0.4"]
    distill.follow(lines, lambda text, *values: logged.append(text % values), tmp_path)
    assert logged == ["distill: step 1 of 3, loss 0.5", "distill: step 3 of 3, loss 0.4"]
    assert shown == [1, 3, -3, 0]
    assert [last for _, last in tables] == [False, False, True]
    assert tables[-1][0][0] == {"step": "3", "loss": "0.3333", "mean weight": "0.71", "seconds": "2"}


def test_the_table_has_the_newest_steps_first_and_no_more_than_fit_a_page(tmp_path: Path) -> None:
    assert distill.last_steps(tmp_path) == []
    metrics(tmp_path, *range(1, 31))
    assert [int(row["step"]) for row in distill.last_steps(tmp_path)] == list(range(30, 10, -1))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_table_is_one_artifact_that_is_filled_anew_when_due_and_at_the_end() -> None:
    from prefect.client.orchestration import get_client

    times = iter([0.0, 3.0, 11.0, 12.0])
    table = LiveTable("distill-steps", "steps", clock=lambda: next(times))
    table.show(lambda: [{"step": "1"}])
    assert table.artifact is not None
    for step, last, expected in ((2, False, 1), (3, False, 3), (4, True, 4)):
        table.show(lambda step=step: [{"step": str(step)}], last=last)
        with get_client(sync_client=True) as client:
            (artifact,) = [one for one in client.read_artifacts() if one.id == table.artifact]
        assert artifact.type == "table" and artifact.key == "distill-steps"
        assert json.loads(str(artifact.data)) == [{"step": str(expected)}]
