"""Complete runs with real engines: bitwise continuation after stops and kills, replacement of dead workers, reuse of finished
runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pocket import world
from tasks.config import PROJECT_ROOT
from tests.small_build import left_after
from tests.training.small_run import example, settings, write_small_dataset
from training.config import load_run, run_folder
from training.preflight.check import prepare
from training.rollouts.engine import Generation
from training.rollouts.saved import read_generations
from training.student.checkpoints import step_folder, steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 6
TOO_HIGH = 5e-3


def write_run(folder: Path, dataset: Path, **changes: Any) -> Path:
    """Write a RUN.json of six steps with a checkpoint after every second step."""
    basic = {
        "output": str(folder),
        "algorithm": {"name": "uopd", "top_k": 16},
        "lengths": {"max_prompt_tokens": 128, "max_response_tokens": 96},
        "batches": {"size": 4, "total_prompts": 4 * STEPS},
        "rollouts": {"group_size": 2},
        "optimizer": {"learning_rate": 4e-4},
        "trainer": {"zero_stage": 1, "micro_batch_tokens": 1024, "gradient_checkpointing": False},
        "checkpoints": {"every": 2, "keep": 2},
    }
    chosen = settings(dataset, **basic | changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RUN.json").write_text(json.dumps(chosen))
    return folder / "RUN.json"


def start(run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "training.launch", str(run)], cwd=PROJECT_ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def finish(run: Path) -> str:
    process = start(run)
    printed, _ = process.communicate(timeout=900)
    assert process.returncode == 0, printed[-5000:]
    return printed


def run_of(run: Path) -> Path:
    """Return the folder of the only run in the output folder of RUN.json."""
    (record,) = run.parent.glob("*/metrics.jsonl")
    return record.parent


def steps_done(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = [world.problem(6, "easy", n) for n in range(12)]
    rows = [example(n, problem=one.text, weight=(n + 1) / 12) for n, one in enumerate(drawn)]
    return write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", rows)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("held-out") / "held_out.jsonl"
    problems = [world.problem(7, "easy", n) for n in range(8)]
    rows = [{"id": str(n), "problem": p.text, "answer": p.answer} for n, p in enumerate(problems)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def one_step_off(held_out: Path) -> dict[str, Any]:
    """Settings of a run with everything that a continuation needs: rollouts made ahead, a reference, evaluations. The learning
    rate is too high, so that the accuracy falls again, and the best student is not the last."""
    return {
        "overlap": "one_step_off",
        "algorithm": {"name": "uopd", "top_k": 16, "reference_kl_coefficient": 0.1},
        "optimizer": {"learning_rate": TOO_HIGH},
        "evaluation": {"problems": str(held_out), "samples": 2, "every_steps": 1, "keep_best": True},
    }


@pytest.fixture(scope="module")
def undisturbed(
    dataset: Path, one_step_off: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    run = write_run(tmp_path_factory.mktemp("undisturbed"), dataset, **one_step_off)
    printed = finish(run)
    return run_of(run), printed


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_student(one: Path, other: Path) -> None:
    whole, continued = (load_file(folder / "student/model.safetensors") for folder in (one, other))
    assert whole.keys() == continued.keys() and all(whole[name].equal(continued[name]) for name in whole)


def test_a_run_writes_a_student_metrics_curves_and_the_gain(undisturbed: tuple[Path, str]) -> None:
    folder, printed = undisturbed
    rows = metrics(folder)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["staleness"] for row in rows] == [0, 1, 1, 1, 1, 1] and rows[0]["mismatch_mean"] < 0.05
    phases = [
        sum(row[f"seconds_{name}"] for name in ("rollout", "teacher", "reference", "student", "sync"))
        for row in rows
    ]
    assert [row["overlap"] * row["seconds"] for row in rows] == pytest.approx(phases)
    assert rows[-1]["learning_rate"] < rows[1]["learning_rate"] <= TOO_HIGH
    assert 0.9 < rows[0]["teacher_mass"] <= 1.001
    student = AutoModelForCausalLM.from_pretrained(folder / "student")
    before = load_file(PROJECT_ROOT / "pocket/student/model.safetensors")
    after = load_file(folder / "student/model.safetensors")
    assert before.keys() == after.keys() and student.num_parameters() > 0
    assert any(not before[name].equal(after[name]) for name in before)
    result = json.loads((folder / "result.json").read_text())
    assert result["held_out"]["gain"]["n"] == 8 and result["cost"]["gpu_hours"] == 0
    assert result["facts"]["reference"]["dtype"] == "bfloat16"
    assert "0.1 x ReferenceKL" in (folder / "student/README.md").read_text()
    assert (folder / "curves.png").stat().st_size > 10_000 and "pass@1" in printed
    assert (
        "attention of the student: per_sequence (no GPU: sequence by sequence, no padding, no mask)"
        in printed
    )
    assert json.loads((folder.parent / "latest.json").read_text()) == {"run": folder.name}
    assert result["fingerprint"].startswith(folder.name)


def test_the_best_student_of_a_run_whose_accuracy_falls_again_is_exported(
    undisturbed: tuple[Path, str],
) -> None:
    folder, printed = undisturbed
    result, rows = json.loads((folder / "result.json").read_text()), metrics(folder)
    found = [row["held_out_accuracy"] for row in rows]
    best = found.index(max(found)) + 1
    assert best < STEPS and found[-1] < max(found), "the accuracy of the last student is lower"
    assert result["exported"] == {"step": best, "best_by": "accuracy", "value": max(found)}
    assert result["held_out"]["after"]["value"] == max(found)
    assert [one["accuracy"] for one in result["evaluations"]][1:] == found
    assert steps(folder / "checkpoints") == sorted({best, STEPS - 2, STEPS})
    assert f"loading the best student, after step {best}" in printed
    assert f"This model is the student after step {best}," in (folder / "student/README.md").read_text()


def test_a_finished_run_is_not_repeated(undisturbed: tuple[Path, str]) -> None:
    folder, _ = undisturbed
    stamp = (folder / "student/model.safetensors").stat().st_mtime_ns
    assert "this run is already finished" in finish(folder.parent / "RUN.json")
    assert (folder / "student/model.safetensors").stat().st_mtime_ns == stamp


def kill_actor(run: subprocess.Popen[str], kind: str) -> None:
    """Send SIGKILL to the only actor of a class among the run's processes."""
    (actor,) = [one for one in psutil.Process(run.pid).children(recursive=True) if kind in one.name()]
    actor.kill()


def kill(run: subprocess.Popen[str]) -> None:
    """Send SIGKILL to a run; none of its workers may outlive it."""
    family = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    assert family and not left_after(family, 15.0)


def wait_until(run: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    while not reached():
        assert run.poll() is None
        time.sleep(0.02)


def stop_during_the_steps(run: Path) -> tuple[int, Sequence[Generation]]:
    """Stop a run by SIGTERM; return the number of its steps, and the rollouts of the next one in the checkpoint."""
    process, printed = start(run), ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if line.startswith("train: step 1 "):
            process.terminate()
    assert process.wait() == 3, printed[-4000:]
    assert re.search(r"stopped after step \d of 6, with a checkpoint", printed)
    folder = run_of(run)
    done = steps_done(folder)
    return done, read_generations(step_folder(folder / "checkpoints", done))


def kill_before_the_export(run: Path, done: int) -> None:
    """Continue a run after step `done`, kill its engine, and kill the run when the last step is saved."""
    process, printed = start(run), ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if f"continuing after step {done}" in line:
            kill_actor(process, "RolloutEngine")
        if line.startswith(f"train: step {STEPS} "):
            break
    folder = run_of(run)
    wait_until(process, lambda: STEPS in steps(folder / "checkpoints"))
    kill(process)
    assert printed.count("restarted with weight version") == 1, printed[-4000:]
    assert not (folder / "result.json").exists()


def test_a_run_stopped_and_killed_with_a_dead_engine_ends_with_the_same_student(
    undisturbed: tuple[Path, str], dataset: Path, one_step_off: dict[str, Any], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", dataset, **one_step_off, checkpoints={"every": 50, "keep": 1})
    done, ahead = stop_during_the_steps(run)
    assert len(ahead) == 8 and {one.version for one in ahead} == {done - 1}
    kill_before_the_export(run, done)
    printed = finish(run)
    assert f"continuing after step {STEPS}" in printed and "train: step" not in printed
    folder = run_of(run)
    assert_same_student(undisturbed[0], folder)
    first, result = (json.loads((one / "result.json").read_text()) for one in (undisturbed[0], folder))
    assert result["held_out"] == first["held_out"] and result["steps"] == STEPS
    assert result["evaluations"] == first["evaluations"] and result["exported"] == first["exported"]
    rows, cost = metrics(folder), result["cost"]
    assert [row["staleness"] for row in rows] == [0, 1, 1, 1, 1, 1]
    assert rows[done]["response_tokens"] == sum(len(one.tokens) for one in ahead)
    initial, *later = [row["reference_kl"] for row in rows]
    assert 0 <= initial < 2e-4 < min(later)  # after the restart, too: the reference is the initial student
    assert (first["cost"]["starts"], cost["starts"]) == (1, 3) and cost["seconds_all"] > cost["seconds"]
    assert cost["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
    assert cost["seconds_reference"] == pytest.approx(sum(row["seconds_reference"] for row in rows))


@pytest.mark.long
def test_a_kill_during_the_steps_and_a_dead_student_do_not_change_the_student(
    undisturbed: tuple[Path, str], dataset: Path, one_step_off: dict[str, Any], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "killed", dataset, **one_step_off)
    process = start(run)
    wait_until(process, lambda: any(run.parent.glob("*/metrics.jsonl")) and steps_done(run_of(run)) >= 3)
    kill(process)
    process, printed = start(run), ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if "continuing after step" in line and printed.count("continuing after step") == 1:
            kill_actor(process, "Student")
    assert process.wait() == 0, printed[-4000:]
    assert "restarting from the last checkpoint (restart 1 of at most 3)" in printed
    assert printed.count("continuing after step") == 2
    assert_same_student(undisturbed[0], run_of(run))


def test_the_folder_of_a_run_depends_on_settings_and_not_on_its_location(
    dataset: Path, tmp_path: Path
) -> None:
    runs = [
        load_run(write_run(tmp_path / name, dataset, **changes))
        for name, changes in (("a", {}), ("a", {"seed": 5}), ("b", {}))
    ]
    first, other, moved = (run_folder(run.output, prepare(run).fingerprint) for run in runs)
    assert first.parent == other.parent == tmp_path / "a" and first.name != other.name
    assert moved == tmp_path / "b" / first.name
