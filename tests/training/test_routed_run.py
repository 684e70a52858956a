"""Runs of two steps with real engines and two teachers that are copies of one model: bitwise what one teacher gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tasks.config import PROJECT_ROOT
from tests.training.small_run import copy_model, example, settings, write_small_dataset

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

FIRST = (0.9, 0.2, 0.5, 0.5, 0.1, 0.8, 0.3, 0.6)
SECOND = (0.4, 0.7, 0.5, 0.2, 0.6, 0.3, 0.9, 0.1)
BEST = tuple(map(max, FIRST, SECOND))


def annotated(folder: Path, weights: Sequence[float]) -> Path:
    return write_small_dataset(folder, [example(n, weight=weight) for n, weight in enumerate(weights)])


def trained(folder: Path, dataset: Path, **changes: Any) -> Path:
    """Train for two steps in which each part of a rollout batch has the rollouts of one prompt, so that a teacher's batches do
    not depend on the routing; return the folder of the run."""
    basic = {
        "output": str(folder),
        "algorithm": {"name": "uopd", "top_k": 16},
        "lengths": {"max_prompt_tokens": 128, "max_response_tokens": 48},
        "batches": {"size": 4, "total_prompts": 8, "draw": "epochs"},
        "rollouts": {"group_size": 2},
        "optimizer": {"learning_rate": 4e-4},
        "trainer": {"dtype": "float32", "micro_batch_tokens": 1024, "gradient_checkpointing": False},
    }
    folder.mkdir()
    path = folder / "RUN.json"
    path.write_text(json.dumps(settings(dataset, **basic | changes)))
    done = subprocess.run(
        [sys.executable, "-m", "training.launch", str(path)], cwd=PROJECT_ROOT, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    (record,) = folder.glob("*/metrics.jsonl")
    return record.parent


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_equal_teachers_train_the_student_of_one(tmp_path: Path) -> None:
    first, second, best, again = (
        annotated(tmp_path / name, weights)
        for name, weights in (("first", FIRST), ("second", SECOND), ("best", BEST), ("again", BEST))
    )
    copy = str(copy_model("teacher", tmp_path / "copy"))

    def two(annotation: Path, routing: str) -> dict[str, Any]:
        teachers = [
            {"name": "first", "model": "pocket/teacher"},
            {"name": "second", "model": copy, "annotation": str(annotation)},
        ]
        return {"teacher": None, "teachers": teachers, "routing": routing}

    single = trained(tmp_path / "single", best)
    routed = trained(tmp_path / "routed", first, **two(second, "lowest_entropy"))
    mixed = trained(tmp_path / "mixed", best, **two(again, "weighted"))
    weights = load_file(single / "student" / "model.safetensors")
    compared = ("loss", "gradient_norm", "weight_mean", "entropy", "teacher_mass", "response_tokens")
    for run in (routed, mixed):
        found = load_file(run / "student" / "model.safetensors")
        assert all(bool((found[name] == tensor).all()) for name, tensor in weights.items())
        for one, other in zip(metrics(single), metrics(run), strict=True):
            assert [one[name] for name in compared] == [other[name] for name in compared]
    shares = [row["teacher_share_first"] for row in metrics(routed)]
    assert sum(shares) == 2 * sum(a >= b for a, b in zip(FIRST, SECOND, strict=True)) / 8
    assert all(row["teacher_share_second"] == 0.5 for row in metrics(mixed))
    result = json.loads((routed / "result.json").read_text())
    share = sum(shares) / len(shares)
    assert [one["share"] for one in result["teachers"]] == [share, 1 - share] and result["teacher"] is None
    assert "| teacher second | " in (routed / "student" / "README.md").read_text()
