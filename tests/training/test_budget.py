"""A budget of tokens ends two methods at the same count, within one batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pocket import world
from tasks.config import PROJECT_ROOT
from tasks.storage.metrics import read_metrics
from tests.training.small_run import example, small_run, write_small_dataset
from tests.training.test_loop import finish, run_of, write_run
from tests.training.test_progress import Machine, train
from training import export
from training.preflight.check import prepare


def tokens_by_step(folder: Path) -> list[int]:
    return [int(row["response_tokens"]) for row in read_metrics(folder)]


def assert_same_count(budget: int, found: Mapping[str, list[int]]) -> None:
    """Every method must stop at the first step that reaches the budget, so the totals differ by less than one batch."""
    for name, tokens in found.items():
        assert sum(tokens[:-1]) < budget <= sum(tokens), name
    totals = [sum(tokens) for tokens in found.values()]
    assert max(totals) - min(totals) < max(tokens[-1] for tokens in found.values())


def test_two_methods_with_batches_of_different_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "draw_curves", lambda *_: None)
    dataset = write_small_dataset(tmp_path / "dataset", [example(n) for n in range(6)])
    budget, found = 70, {}
    for name, group_size in (("uopd", 2), ("opd", 3)):
        run = small_run(
            dataset, algorithm={"name": name}, batches={"size": 2, "total_prompts": 60}, self_tests=False, report_to=[],
            rollouts={"group_size": group_size}, checkpoints={"every": 50, "keep": 1}, budget={"max_tokens": budget},
        )  # fmt: skip
        result = train(Machine((), prepare(run)), tmp_path / name)
        assert result["ended"]["by"] == "max_tokens" and result["steps"] < 30
        found[name] = tokens_by_step(tmp_path / name)
        assert result["cost"]["response_tokens"] == sum(found[name])
    assert_same_count(budget, found)
    assert len({len(tokens) for tokens in found.values()}) == 2, "the methods need another number of steps"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_methods_with_real_engines(tmp_path: Path) -> None:
    drawn = [world.problem(6, "easy", n) for n in range(12)]
    rows = [
        example(n, problem=one.text, answer=one.answer, weight=(n + 1) / 12) for n, one in enumerate(drawn)
    ]
    dataset = write_small_dataset(tmp_path / "data/dataset", rows)
    budget, found = 700, {}
    methods: dict[str, dict[str, Any]] = {
        "uopd": {"algorithm": {"name": "uopd", "top_k": 16}, "rollouts": {"group_size": 2}},
        "grpo": {"algorithm": {"name": "grpo"}, "rollouts": {"group_size": 4}},
    }
    for name, changes in methods.items():
        run = write_run(tmp_path / name, dataset, **changes, budget={"max_tokens": budget}, self_tests=False)
        finish(run)
        folder = run_of(run)
        result = json.loads((folder / "result.json").read_text())
        assert result["ended"]["by"] == "max_tokens" and result["algorithm"] == name
        assert (PROJECT_ROOT / folder / "student/model.safetensors").is_file()
        found[name] = tokens_by_step(folder)
        assert result["cost"]["response_tokens"] == sum(found[name])
    assert_same_count(budget, found)
