"""Complete runs with real engines: bitwise continuation after a kill, replacement of dead workers, reuse of finished runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
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
from training.rollouts.saved import read_generations
from training.student.checkpoints import step_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 6


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
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    held_out = folder / "held_out.jsonl"
    problems = [world.problem(7, "easy", n) for n in range(8)]
    held_out.write_text(
        "".join(
            json.dumps({"id": str(n), "problem": p.text, "answer": p.answer}) + "\n"
            for n, p in enumerate(problems)
        )
    )
    run = write_run(folder, dataset, evaluation={"problems": str(held_out), "samples": 2})
    printed = finish(run)
    return run_of(run), printed


def test_a_run_writes_a_student_metrics_curves_and_the_gain(undisturbed: tuple[Path, str]) -> None:
    folder, printed = undisturbed
    assert steps_done(folder) == STEPS
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(row["mismatch_mean"] < 0.05 and row["staleness"] == 0 for row in rows)
    phases = [
        sum(row[f"seconds_{name}"] for name in ("rollout", "teacher", "student", "sync")) for row in rows
    ]
    assert [row["overlap"] * row["seconds"] for row in rows] == pytest.approx(phases)
    assert rows[-1]["learning_rate"] < rows[1]["learning_rate"] <= 4e-4
    assert 0.9 < rows[0]["teacher_mass"] <= 1.001
    student = AutoModelForCausalLM.from_pretrained(folder / "student")
    before = load_file(PROJECT_ROOT / "pocket/student/model.safetensors")
    after = load_file(folder / "student/model.safetensors")
    assert before.keys() == after.keys() and student.num_parameters() > 0
    assert any(not before[name].equal(after[name]) for name in before)
    result = json.loads((folder / "result.json").read_text())
    assert result["held_out"]["gain"]["n"] == 8 and result["cost"]["gpu_hours"] == 0
    assert not any("reference" in name for row in rows for name in row)
    assert (folder / "curves.png").stat().st_size > 10_000 and "pass@1" in printed
    assert "attention of the student: sdpa (no GPU: dense mask for packed rows)" in printed
    assert json.loads((folder.parent / "latest.json").read_text()) == {"run": folder.name}
    assert result["fingerprint"].startswith(folder.name)


def test_a_finished_run_is_not_repeated(undisturbed: tuple[Path, str]) -> None:
    folder, _ = undisturbed
    stamp = (folder / "student/model.safetensors").stat().st_mtime_ns
    assert "this run is already finished" in finish(folder.parent / "RUN.json")
    assert (folder / "student/model.safetensors").stat().st_mtime_ns == stamp


def test_evaluation_and_export_can_be_repeated_without_training(
    undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(undisturbed[0].parent, tmp_path / "copy")) / undisturbed[0].name
    run = json.loads((folder.parent / "RUN.json").read_text()) | {"output": str(folder.parent)}
    (folder.parent / "RUN.json").write_text(json.dumps(run))
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "student")
    printed = finish(folder.parent / "RUN.json")
    assert f"continuing after step {STEPS}" in printed and "train: step" not in printed
    assert (folder / "student/model.safetensors").read_bytes() == (
        undisturbed[0] / "student/model.safetensors"
    ).read_bytes()
    first, again = (json.loads((one / "result.json").read_text()) for one in (undisturbed[0], folder))
    assert again["held_out"] == first["held_out"] and again["steps"] == STEPS
    assert (first["cost"]["starts"], again["cost"]["starts"]) == (1, 2)
    assert again["cost"]["seconds_all"] > first["cost"]["seconds_all"] > first["cost"]["seconds"]
    assert again["cost"]["seconds"] == first["cost"]["seconds"]


def kill_actor(run: subprocess.Popen[str], kind: str) -> None:
    """Send SIGKILL to the only actor of a class among the run's processes."""
    (actor,) = [one for one in psutil.Process(run.pid).children(recursive=True) if kind in one.name()]
    actor.kill()


def test_a_kill_a_dead_engine_and_a_dead_student_do_not_change_the_weights(
    undisturbed: tuple[Path, str], dataset: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "killed", dataset)
    process = start(run)
    assert process.stdout is not None
    for line in process.stdout:
        if re.match(r"train: step 3 ", line) or (
            any(run.parent.glob("*/metrics.jsonl")) and steps_done(run_of(run)) >= 3
        ):
            break
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not left_after(family, 15.0)
    process, printed = start(run), ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if "continuing after step" in line and printed.count("continuing after step") == 1:
            kill_actor(process, "RolloutEngine")
        if "restarted with weight version" in line:
            kill_actor(process, "Student")
    assert process.wait() == 0, printed[-4000:]
    assert printed.count("restarted with weight version") == 1
    assert "restarting from the last checkpoint (restart 1 of at most 3)" in printed
    assert printed.count("continuing after step") == 2
    whole = load_file(undisturbed[0] / "student/model.safetensors")
    killed = load_file(run_of(run) / "student/model.safetensors")
    assert whole.keys() == killed.keys() and all(whole[name].equal(killed[name]) for name in whole)


def test_one_step_off_continues_after_sigterm_with_its_rollouts_and_reference(
    dataset: Path, tmp_path: Path
) -> None:
    penalised = {"name": "uopd", "top_k": 16, "reference_kl_coefficient": 0.1}
    seldom = {"every": 50, "keep": 1}
    run = write_run(
        tmp_path / "stopped", dataset, checkpoints=seldom, overlap="one_step_off", algorithm=penalised
    )
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
    ahead = read_generations(step_folder(folder / "checkpoints", done))
    assert len(ahead) == 8 and {one.version for one in ahead} == {done - 1}
    assert f"continuing after step {done}" in finish(run)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["staleness"] for row in rows] == [0, 1, 1, 1, 1, 1]
    assert rows[done]["response_tokens"] == sum(len(one.tokens) for one in ahead)
    first, *later = [row["reference_kl"] for row in rows]
    assert 0 <= first < 2e-4 < min(later)  # after the restart, too: the reference is the initial student
    result = json.loads((folder / "result.json").read_text())
    assert result["facts"]["reference"]["dtype"] == "bfloat16"
    assert result["cost"]["seconds_reference"] == pytest.approx(sum(row["seconds_reference"] for row in rows))
    assert "0.1 x ReferenceKL" in (folder / "student/README.md").read_text()


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
