"""A killed run ends with the same weights, for methods whose state differs: mini-batches of a rollout batch (GRPO), an adapter
with dropout and its own start as the teacher (OPSD), and responses of the dataset in epochs (KD)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pocket import world
from tests.training.small_run import example, write_small_dataset
from tests.training.test_loop import (
    STEPS,
    assert_same_student,
    finish,
    kill,
    metrics,
    run_of,
    start,
    steps_done,
    wait_until,
    write_run,
)

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"rollouts": {"group_size": 4}},
    "opsd": {
        "rollouts": {"group_size": 1},
        "trainer": {
            "micro_batch_tokens": 1024, "dtype": "float32",
            "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.05},
        },
    },
    "kd": {"rollouts": {"group_size": 1}},
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = [world.problem(6, "easy", number) for number in range(12)]
    rows = [
        example(number, problem=one.text, answer=one.answer, solution=f"So it is {one.answer}.")
        for number, one in enumerate(drawn)
    ]
    return write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", rows)


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_ends_with_the_same_weights(dataset: Path, name: str, tmp_path: Path) -> None:
    whole = write_run(tmp_path / "whole", dataset, **{"algorithm": {"name": name}, **METHODS[name]})
    finish(whole)
    killed = write_run(tmp_path / "killed", dataset, **{"algorithm": {"name": name}, **METHODS[name]})
    process = start(killed)
    wait_until(
        process, lambda: any(killed.parent.glob("*/metrics.jsonl")) and steps_done(run_of(killed)) >= 3
    )
    kill(process)
    assert steps_done(run_of(killed)) < STEPS
    assert re.search(r"continuing after step [24]", finish(killed))
    assert_same_student(run_of(whole), run_of(killed))
    assert len(metrics(run_of(killed))) == STEPS
    if name == "opsd":
        first, second = (
            load_file(run_of(run) / "student/adapter/adapter_model.safetensors") for run in (whole, killed)
        )
        assert first.keys() == second.keys() and all(first[key].equal(second[key]) for key in first)
