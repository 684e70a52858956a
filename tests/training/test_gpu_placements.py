"""Complete runs on the placements of a GPU node with simulated GPUs: slots, sleeping engines and sanity checks are as on a node,
but the CPU computes and weights are sent as in `store_transfer`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.processes.ray_session import RAY_ENVIRONMENT
from tests.training.small_run import example, write_small_dataset
from tests.training.test_loop import run_of, write_run
from tests.training.weight_sync.store_transfer import StoreRolloutEngine, StoreStudent
from training import worker_set
from training.config import load_run
from training.loop import run
from training.rollouts import pool
from training.student import group
from training.weight_sync.sync import Choice

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def counted_gpus() -> Iterator[None]:
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_ENVIRONMENT.items():
            patch.setenv(name, value)
        ray.init(
            address="local", num_cpus=4, num_gpus=4, include_dashboard=False, log_to_driver=False,
            object_store_memory=128 * 1024**2,
        )  # fmt: skip
        yield
        ray.shutdown()


@pytest.fixture(autouse=True)
def store_for_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "RolloutEngine", StoreRolloutEngine)
    monkeypatch.setattr(group, "Student", StoreStudent)


def metrics(path: Path, **changes: Any) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Train for two steps; return the metrics of each and the result."""
    rows = [example(n, weight=(n + 1) / 12) for n in range(12)]
    made = write_run(
        path, write_small_dataset(path / "dataset", rows), batches={"size": 4, "total_prompts": 8}, **changes
    )
    run(load_run(made))
    folder = run_of(made)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return steps, json.loads((folder / "result.json").read_text())


def test_split_one_step_off_with_a_reference_on_the_students_gpu(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps, result = metrics(
        tmp_path,
        placement={"kind": "split", "students": 1, "engines": 2},
        algorithm={"name": "uopd", "top_k": 16, "reference_kl_coefficient": 0.1},
        overlap="one_step_off",
    )
    assert [row["staleness"] for row in steps] == [0, 1]
    assert steps[0]["mismatch_mean"] < 0.05 and steps[0]["reference_kl"] < 2e-4
    assert result["facts"]["transport"] == "nccl" and result["facts"]["placement"] == "split"
    assert (
        "rollout engines: nccl (student and engines on distinct GPUs: NCCL broadcast)"
        in capfd.readouterr().out
    )


def test_colocated_ranks_partition_parameters_and_train_on_teacher_states_while_engines_sleep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        worker_set, "choose_transport", lambda _: Choice(transport="nccl", reason="IPC needs CUDA")
    )
    steps, result = metrics(
        tmp_path,
        placement={"kind": "colocated", "students": 2, "engines": 2},
        trainer={"zero_stage": 3, "micro_batch_tokens": 1024},
        algorithm={"name": "opd", "top_k": "full", "divergence_beta": 0.5},
    )
    assert [row["staleness"] for row in steps] == [0, 0]
    assert max(row["mismatch_mean"] for row in steps) < 0.05
    assert result["facts"]["placement"] == "colocated" and "reference" not in result["facts"]
    assert not any("reference" in name for row in steps for name in row)
    assert all(0 < row["loss"] <= 0.6931 and row["teacher_entropy"] > 0 for row in steps)  # at most log 2
    assert "the teacher sends its full distribution as 256 numbers per token" in capfd.readouterr().out
