"""Tables of sample rollouts: which rollouts, their values, and texts that are data."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from tasks.runtime.training_job import sample_rollouts
from tasks.storage.rollout_samples import last_samples, write_samples
from tests.training.small_run import example, small_run, write_small_dataset
from training.batch import RolloutBatch
from training.preflight.check import Prepared, prepare
from training.rollout_samples import sample_rows
from training.rollouts.engine import Generation

HOSTILE = "<script>alert(1)</script> | **a** \u202e[x](u)\x1b[31m"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", [example(n) for n in range(6)])
    return prepare(small_run(folder, batches={"size": 4, "total_prompts": 8}, rollouts={"group_size": 5}))


def batch_of(prepared: Prepared, *, graded: bool = True, known: bool = True) -> RolloutBatch:
    """Return four groups of five rollouts; rollout i has i + 1 tokens of log-probability -i, reward i % 2 and weight i / 20."""

    def grade(value: float) -> Future[float]:
        future: Future[float] = Future()
        future.set_result(value)
        return future

    return RolloutBatch(
        step=6, groups=prepared.schedule.step(1), sequences=(), updates=(), weights=np.arange(20) / 20,
        generations=tuple(
            Generation(
                tokens=np.full(i + 1, i, np.int32), logprobs=np.full(i + 1, -i if known else np.nan, np.float32),
                finish_reason="stop", version=6,
            )
            for i in range(20)
        ),
        rollout_seconds=1.0, grades=tuple(grade(float(i % 2)) for i in range(20)) if graded else (),
    )  # fmt: skip


def test_the_first_whole_groups_are_shown_with_reward_and_weight(prepared: Prepared) -> None:
    rows = sample_rows(batch_of(prepared), prepared.rows, lambda tokens: f"{len(tokens)} tokens")
    assert [row["group"] for row in rows] == [0] * 5 + [1] * 5 + [2] * 5  # a fourth group would make 20
    drawn = prepared.schedule.step(1)[1]
    assert rows[7] == {
        "step": 7, "id": drawn.row_id, "group": 1, "weight": 7 / 20, "reward": 1.0, "tokens": 8, "finish_reason": "stop",
        "logprob_mean": -7.0, "problem": prepared.rows[drawn.row].text, "response": "8 tokens",
    }  # fmt: skip


def test_what_is_not_known_is_none(prepared: Prepared) -> None:
    made = batch_of(prepared, graded=False, known=False)
    (first, *_) = sample_rows(made, prepared.rows, lambda _: "")
    assert first["reward"] is None and first["logprob_mean"] is None


def test_texts_are_escaped_in_the_file_and_in_the_user_interface(prepared: Prepared, tmp_path: Path) -> None:
    assert last_samples(tmp_path) == []
    for step in (2, 10):
        rows = sample_rows(batch_of(prepared), prepared.rows, lambda _: HOSTILE + "y" * 1000)
        write_samples(tmp_path, step, rows)
    (old, new) = sorted((tmp_path / "rollouts").iterdir())
    assert (old.name, new.name) == ("step-00000002.jsonl", "step-00000010.jsonl")
    assert new.read_text().isascii() and "\x1b" not in new.read_text()
    assert last_samples(tmp_path) == rows
    (shown, *_) = sample_rollouts(tmp_path)
    assert shown["reward"] == "0" and shown["step"] == "7"
    text = shown["response"]
    assert "<" not in text and "&lt;U+202E&gt;" in text and "&lt;U+001B&gt;" in text and "\x1b" not in text
    assert r"\*\*a\*\*" in text and r"\[x\](u)" in text and len(text) < 450
