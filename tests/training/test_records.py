"""Metrics on disk, the progress line, the curves, the card, and held-out problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks.core.config import PROJECT_ROOT
from tasks.core.errors import UserError
from training.config import EvaluationSettings
from training.evaluation.held_out import estimates, read_held_out
from training.model_files import open_model
from training.records import METRICS, Records, read_metrics
from training.results import draw_curves, model_card, write_table


def row(step: int, **more: float) -> dict[str, float]:
    seconds = {f"seconds_{name}": 1.0 for name in ("rollout", "teacher", "student", "sync")}
    shares = {f"share_{name}": 0.25 for name in ("rollout", "teacher", "student", "sync")}
    basic = {"step": step, "loss": 0.5, "weight_mean": 0.7, "response_tokens_mean": 90.0, "seconds": 4.0}
    return {**basic, **seconds, **shares, **more}


def test_a_continued_run_drops_the_rows_of_steps_that_it_does_again(tmp_path: Path) -> None:
    with Records(tmp_path, step=0, steps=5) as records:
        for step in (1, 2, 3):
            records.write(row(step))
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    with Records(tmp_path, step=2, steps=5) as records:
        records.write(row(3, loss=0.1))
    assert [(found["step"], found["loss"]) for found in read_metrics(tmp_path)] == [
        (1, 0.5),
        (2, 0.5),
        (3, 0.1),
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_line_counts_from_where_the_run_continued(tmp_path: Path) -> None:
    now = [100.0]
    with Records(tmp_path, step=10, steps=60, clock=lambda: now[0]) as records:
        now[0] = 120.0
        line = records.line(row(20))
    assert line.startswith(
        "step 20 of 60, loss 0.5000, weight 0.70, 90 tokens a response, 2.0 s a step (rollout 25%"
    )
    assert line.endswith("80 s left")


def test_a_number_that_is_none_ends_the_run_and_not_only_the_line(tmp_path: Path) -> None:
    with Records(tmp_path, step=0, steps=1) as records, pytest.raises(ValueError):
        records.write(row(1, loss=float("nan")))


def test_table_and_curves_are_written_from_the_rows(tmp_path: Path) -> None:
    rows = [row(step, gradient_norm=1.0) for step in (1, 2)]
    write_table(tmp_path / "metrics.parquet", rows)
    assert pq.read_table(tmp_path / "metrics.parquet").to_pylist() == rows
    draw_curves(tmp_path / "curves.png", rows)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_card_names_models_gain_and_settings() -> None:
    measured = estimates([[False, True], [False, False]], [[True, True], [False, True]])
    assert measured["gain"]["value"] == 0.5 and measured["before"]["value"] == 0.25
    result: dict[str, Any] = {
        "objective": "uopd", "steps": 3, "student": {"from": "a", "to": "b"}, "teacher": "t", "dataset": "d" * 64,
        "cost": {"response_tokens": 1234.0}, "held_out": measured, "settings": {"seed": 0},
    }  # fmt: skip
    card = model_card(result)
    assert "25.0% before, 75.0% after (gain +50.0 points" in card and '"seed": 0' in card


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ('{"id": "1", "problem": "What is 1 + 1?"}\n', "line 1 of .* needs id, problem and answer"),
        ('{"id": "1", "problem": "x", "answer": "2"}\nnot json\n', "line 2 of .* needs"),
        ('{"id": "1", "problem": " ", "answer": "2"}\n', "line 1 of .* has an empty"),
    ],
)
def test_held_out_problems_that_cannot_be_used_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "held_out.jsonl"
    path.write_text(text)
    student = open_model("student", str(PROJECT_ROOT / "pocket/student"))
    with pytest.raises(UserError, match=sentence):
        read_held_out(EvaluationSettings(problems=path), student)


def test_held_out_problems_are_asked_as_the_student_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "held_out.jsonl"
    path.write_text(json.dumps({"id": "a", "problem": "What is 1 + 1?", "answer": "2"}) + "\n\n")
    student = open_model("student", str(PROJECT_ROOT / "pocket/student"))
    found = read_held_out(EvaluationSettings(problems=path, samples=2), student)
    assert found is not None and found.answers == ("2",)
    asked = student.tokenizer.decode(found.prompts[0])
    assert "What is 1 + 1?" in asked and asked.endswith("</think>\n\n")
    assert read_held_out(None, student) is None
