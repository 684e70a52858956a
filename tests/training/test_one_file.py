"""A new algorithm is one file: written into a package of its own, named in RUN.json, and trained without any other edit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.config import PROJECT_ROOT
from tasks.storage.checksums import unsealed
from tasks.storage.metrics import read_metrics
from tests.training.small_run import example, settings, write_small_dataset

METHOD = '''
"""Responses that are right count five times as much; the student stays near its start."""

import numpy as np

from training.algorithms.base import Algorithm, Columns, Scorer, Term
from training.algorithms.losses import NegativeLogLikelihood, ReferenceKL


def right_ones_first(columns: Columns) -> np.ndarray:
    return np.repeat(np.where(columns.rewards == 1.0, 1.0, 0.2), columns.lengths)


ALGORITHM = Algorithm(
    summary="Likelihood of the student's own responses, those with the right answer first",
    formula="mean over sequences of r / |y| sum_t (-log q(y_t) + 0.1 k3)",
    source="a test",
    scorers=(Scorer(role="reference"),),
    reward=True,
    token_weight=right_ones_first,
    loss=(Term(loss=NegativeLogLikelihood()), Term(loss=ReferenceKL(), weight=0.1)),
    defaults={"rollouts": {"group_size": 2}, "optimizer": {"learning_rate": 1e-4}},
)
'''


@pytest.mark.slow
def test_an_algorithm_of_a_package_elsewhere_trains_three_steps(tmp_path: Path) -> None:
    package = tmp_path / "somewhere" / "my_methods"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "right_first.py").write_text(METHOD)
    rows = [example(number, answer=str(2 * number + 2) if number % 2 else None) for number in range(12)]
    data = write_small_dataset(tmp_path / "data", rows)
    run = settings(
        data,
        algorithm={"name": "my_methods.right_first"},
        batches={"size": 4, "total_prompts": 12},
        lengths={"max_prompt_tokens": 128, "max_response_tokens": 64},
        trainer={"micro_batch_tokens": 512, "dtype": "float32"},
    )
    del run["teacher"]
    (tmp_path / "RUN.json").write_text(json.dumps(run))
    done = subprocess.run(
        [sys.executable, "-m", "training.launch", str(tmp_path / "RUN.json")],
        check=False,
        cwd=PROJECT_ROOT,
        env=os.environ | {"PYTHONPATH": f"{package.parent}{os.pathsep}{PROJECT_ROOT}"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (path for path in (tmp_path / "run").iterdir() if path.is_dir())
    result, steps = unsealed((folder / "result.json").read_bytes()), read_metrics(folder)
    assert result["teacher"] is None
    assert result["references"] == {"label": {"gold": 6, "teacher_majority": 6}}
    assert len(steps) == 3
    assert all(0 <= row["reward_mean"] <= 1 and row["reference_kl"] >= 0 for row in steps)
    assert steps[0]["reference_kl"] < 1e-6 < steps[-1]["reference_kl"]
    assert "seconds_teacher" not in steps[0]
    assert "right_first" in (folder / "student" / "README.md").read_text(encoding="utf-8")
