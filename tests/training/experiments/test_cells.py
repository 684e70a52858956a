"""Cells with real engines: every algorithm in one set of workers, the same bytes as alone, and a kill in between."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from pocket import world
from tasks.config import PROJECT_ROOT
from tests.training.small_run import example, response, write_small_dataset
from training.algorithms import algorithm_names
from training.experiments.grid import load_experiment
from training.experiments.stored import CellResult, read_cells
from training.experiments.tables import write_views

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 3
KILLS = 10


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of three small steps, on a dataset in which every row has an answer and right responses."""
    folder = tmp_path_factory.mktemp("data")
    drawn = [world.problem(6, "easy", n) for n in range(12)]
    rows = [
        example(
            n, problem=one.text, answer=one.answer, majority_answer=one.answer, majority_correct=True,
            cluster_answers=("-1", one.answer), weight=(n + 1) / 12,
        )
        for n, one in enumerate(drawn)
    ]  # fmt: skip
    said = [
        response(row, index, "-1" if index == 0 else str(row.answer)) for row in rows for index in range(4)
    ]
    dataset = write_small_dataset(folder / "dataset", rows, responses=said)
    held_out = [world.problem(7, "easy", n) for n in range(4)]
    lines = [{"id": str(n), "problem": one.text, "answer": one.answer} for n, one in enumerate(held_out)]
    (folder / "held_out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "dataset.folder": str(dataset),
        "evaluation.problems": str(folder / "held_out.jsonl"),
        "evaluation.samples": 2,
        "evaluation.every_steps": 2,
        "batches.size": 4,
        "batches.draw": "with_replacement",
        "batches.total_prompts": 4 * STEPS,
        "rollouts.group_size": 2,
        "lengths.max_prompt_tokens": 160,
        "lengths.max_response_tokens": 96,
        "trainer.micro_batch_tokens": 1024,
        "checkpoints.every": 1,
    }


def rows_of(names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"label": name, "algorithm": name} for name in names]


def command(folder: Path, common: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
    folder.mkdir(exist_ok=True)
    text = yaml.safe_dump({"title": "t", "seeds": [0], "common": common, "rows": list(rows)})
    (folder / "trial.yaml").write_text(text)
    return [
        sys.executable, "-m", "training.experiments", str(folder / "trial.yaml"),
        "--results", str(folder / "results"), "--work", str(folder / "work"),
    ]  # fmt: skip


def finish(started: Sequence[str]) -> str:
    done = subprocess.run(
        started, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=1700, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def results(folder: Path) -> dict[str, CellResult]:
    """Return the results by algorithm or baseline."""
    found = read_cells(folder / "results").values()
    return {one.cell["algorithm"] or one.cell["baseline"]: one for one in found}


def weights(folder: Path, result: CellResult) -> bytes:
    return (folder / "work/pocket" / result.fingerprint[:12] / "student/model.safetensors").read_bytes()


def check_curve(result: CellResult) -> None:
    assert [point.step for point in result.curve] == [0, 2, 3] and result.ended == "steps"
    assert all(len(point.correct) == 4 and set(point.correct) <= set("012") for point in result.curve)
    assert all(point.entropy_mean is not None and point.entropy_mean > 0 for point in result.curve)
    assert result.curve[0].tokens == 0 < result.curve[1].tokens < result.curve[2].tokens
    assert result.curve[2].tokens == result.totals["trained_tokens"]


def test_two_algorithms_and_a_baseline_share_their_workers(tmp_path: Path, common: dict[str, Any]) -> None:
    rows = [{"label": "base", "baseline": "student"}, *rows_of(["grpo", "uopd"])]
    started = command(tmp_path, common, rows)
    printed = finish(started)
    found = results(tmp_path)
    for name in ("grpo", "uopd"):
        check_curve(found[name])
        assert found[name].curve[0].correct == found["student"].curve[0].correct
    evaluated = printed.count("pass@1 before training")
    assert evaluated == 2, "the start is evaluated once with and once without a teacher to compare it with"
    assert found["grpo"].dataset["labels"] == "12 gold" and found["uopd"].dataset["labels"] is None
    assert not list(tmp_path.glob("work/pocket/*/checkpoints"))
    again = finish(started)
    assert "3 cells, 3 stored, 0 to measure" in again and "train:" not in again


@pytest.mark.long
def test_every_algorithm_runs_in_one_set_of_workers(tmp_path: Path, common: dict[str, Any]) -> None:
    names = algorithm_names()
    printed = finish(command(tmp_path, common, rows_of(names)))
    found = results(tmp_path)
    assert sorted(found) == names
    for name in names:
        check_curve(found[name])
    assert printed.count("pass@1 before training") == 2


def tables(folder: Path) -> dict[str, bytes]:
    """Return the tables of the experiment in `folder`: Markdown, CSV and LaTeX."""
    experiment = load_experiment(folder / "trial.yaml")
    files = write_views(experiment, read_cells(folder / "results"), folder / "tables", folder / "results")
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.long
def test_the_tables_of_an_experiment_that_is_killed_at_ten_random_moments(
    tmp_path: Path, common: dict[str, Any]
) -> None:
    rows = rows_of(["opd", "kd", "grpo", "pw_opsd", "eopd", "core"])
    finish(command(tmp_path / "whole", common, rows))
    started, moments = command(tmp_path / "killed", common, rows), random.Random(24)
    printed = list[str]()
    for steps in sorted(moments.sample(range(len(rows) * STEPS - 2), KILLS)):
        log = tmp_path / f"killed-{steps}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                started, cwd=PROJECT_ROOT, stdout=output, stderr=output, start_new_session=True
            )
            while steps_done(tmp_path / "killed") < steps:
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.1)
            time.sleep(moments.uniform(0, 2))
            assert process.poll() is None, log.read_text()[-3000:]
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        printed.append(log.read_text(errors="replace"))
    printed.append(finish(started))
    assert any("continuing after step" in one for one in printed)
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole")
    assert set(tables(tmp_path / "whole")) == {"table.md", "table.csv", "table.tex"}


def steps_done(folder: Path) -> int:
    """Return the number of steps that the experiment in `folder` has finished: those of the finished cells, and those in the
    checkpoints of the others."""
    finished = {one.fingerprint[:12] for one in read_cells(folder / "results").values()}
    saved = dict[str, int]()
    for path in folder.glob("work/pocket/*/checkpoints/step-*"):
        cell, step = path.parents[1].name, int(path.name.removeprefix("step-"))
        saved[cell] = max(saved.get(cell, 0), step)
    return STEPS * len(finished) + sum(steps for cell, steps in saved.items() if cell not in finished)


def half_way(folder: Path) -> bool:
    """Whether the second cell has a checkpoint after its second step."""
    stored = {one.fingerprint[:12] for one in read_cells(folder / "results").values()}
    saved = {path.parents[1].name for path in folder.glob("work/pocket/*/checkpoints/step-*2")}
    return len(stored) == 1 and bool(saved - stored)


@pytest.mark.long
def test_a_killed_experiment_continues_to_the_weights_of_each_cell_alone(
    tmp_path: Path, common: dict[str, Any]
) -> None:
    """The second of three cells is killed between two checkpoints."""
    names = ["opsd", "uopd", "eopd"]
    started = command(tmp_path / "together", common, rows_of(names))
    process = subprocess.Popen(
        started, cwd=PROJECT_ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    until = time.monotonic() + 900
    while not half_way(tmp_path / "together"):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(results(tmp_path / "together")) == 1
    printed = finish(started)
    assert "3 cells, 1 stored, 2 to measure" in printed and "continuing after step" in printed
    together = results(tmp_path / "together")
    for name in names:
        alone = tmp_path / f"alone-{name}"
        finish(command(alone, common, rows_of([name])))
        (only,) = results(alone).values()
        assert weights(alone, only) == weights(tmp_path / "together", together[name]), name
        assert [point.correct for point in only.curve] == [point.correct for point in together[name].curve]
