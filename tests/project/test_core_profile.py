"""Profile core-1.7b: CORE on the training problems of GSM8K, with stand-ins for the models and one row for the problems."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.config import load_config
from tests.project.test_model_zoo import planned, training
from tests.published_models import write_stand_in
from training.data.sources import read_data
from training.preflight.check import early_problems

ROW = {"question": "What is 1 + 1?", "answer": "It is 1 + 1 = <<1+1=2>>2.\n#### 2"}


def test_the_settings_are_those_of_the_paper() -> None:
    run = training("core-1.7b")
    assert run.teacher is not None
    assert (Path(run.student.model).name, Path(run.teacher.model).name) == ("Qwen3-1.7B", "Qwen3-8B")
    assert (run.algorithm.name, run.rollouts.group_size, run.rollouts.temperature) == ("core", 8, 0.7)
    assert (run.batches.size, run.batches.epochs, run.batches.total_prompts) == (32, 3, None)
    assert run.optimizer.learning_rate == 1e-6
    assert load_config("core-1.7b").evaluate.benchmarks == ("gsm8k",)


def test_the_run_passes_its_check_and_fits_on_four_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**12))
    models = {
        f"distill.run.{role}.model": str(write_stand_in(tmp_path / name, name, "qwen3"))
        for role, name in (("student", "Qwen3-1.7B"), ("teacher", "Qwen3-8B"))
    }
    run = training("core-1.7b", **models)
    assert run.dataset.source is not None and run.dataset.source.hub_id == "openai/gsm8k"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    source = type(run.dataset.source)(path=path, columns=run.dataset.source.columns)
    dataset = run.dataset.model_copy(update={"source": source})
    (row,) = read_data(dataset).rows
    assert row.answer == "2" and row.solution is not None and row.solution.startswith("It is 1 + 1")
    local = run.model_copy(update={"output": tmp_path / "out", "dataset": dataset})
    assert early_problems(local, has_data=True) == ()
    memory = planned(training("core-1.7b"))
    assert len(memory.devices) == 4 and memory.fits
