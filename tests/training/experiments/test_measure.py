"""What is read of a finished training, and the checks of a cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.runtime.training_run import HeldOutProblem
from tasks.storage.disk import atomic_write
from tests.training.small_run import example, small_run, write_small_dataset
from training.evaluation.history import Evaluation
from training.evaluation.stored import evaluation_file
from training.experiments import measure
from training.experiments.cell import Cell
from training.experiments.measure import checked, last_means, point_of
from training.preflight.check import prepare

ROWS = [
    {"step": 1, "response_tokens": 10, "seconds": 1.5, "loss": 4.0},
    {"step": 2, "response_tokens": 20, "seconds": 2.0, "loss": 1.0, "held_out_accuracy": 0.5},
    {"step": 3, "response_tokens": 40, "seconds": 4.0, "loss": float("nan")},
]


def test_a_point_has_what_the_steps_until_then_took() -> None:
    made = Evaluation(
        step=2,
        weights="w",
        grades=[[True, False], [True, True]],
        values={"entropy_mean": 1 / 3, "forward_kl_high_entropy": 2 / 3},
    )
    point = point_of(made, ROWS)
    assert (point.step, point.tokens, point.seconds, point.correct) == (2, 30, 3.5, "12")
    assert (point.entropy_mean, point.forward_kl_high_entropy) == (0.333333, 0.666667)
    assert point.truncated is None
    start = point_of(Evaluation(step=0, weights="w", grades=[[False]]), ROWS)
    assert (start.tokens, start.seconds, start.correct) == (0, 0.0, "0")


def test_metrics_are_means_over_the_last_steps_that_have_them() -> None:
    rows = [{"step": n, "loss": float(n)} for n in range(1, 9)]
    rows[6]["rare"] = 3.0
    assert last_means(rows) == {"loss": 6.0, "rare": 3.0}
    assert last_means(ROWS) == {"response_tokens": 23.3333, "seconds": 2.5, "held_out_accuracy": 0.5}


def test_every_cell_keeps_its_own_held_out_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held_out(_settings: object, dataset: Path) -> list[HeldOutProblem]:
        return [HeldOutProblem(id=dataset.name, problem="What is 1 + 1?", answer="2")]

    monkeypatch.setattr(measure, "held_out", held_out)
    jobs = []
    for name in ("first", "second"):
        folder = write_small_dataset(tmp_path / name, [example(n) for n in range(4)])
        cell = Cell(profile="pocket", algorithm="uopd", changes={"dataset.folder": str(folder)})
        jobs.append(checked(name, cell, tmp_path / "work"))
    files = [job.run.evaluation.problems for job in jobs if job.run.evaluation is not None]
    assert [name in Path(str(path)).read_text() for name, path in zip(("first", "second"), files, strict=True)] == [
        True, True,
    ]  # fmt: skip
    assert jobs[0].fingerprint != jobs[1].fingerprint and jobs[0].steps == 30


def test_the_evaluation_of_the_start_is_shared_by_cells_that_compare_it_with_the_same_teacher(
    tmp_path: Path,
) -> None:
    dataset = write_small_dataset(tmp_path / "dataset", [example(n) for n in range(4)])
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"id": "1", "problem": "What is 1 + 1?", "answer": "2"}\n')
    teacher = {"model": "pocket/teacher"}
    found = []
    for number, (name, changes) in enumerate(
        [
            ("sft", {}),  # has no teacher
            ("opd", {"teacher": teacher}),
            ("sft", {"teacher": teacher}),
            ("eopd", {"teacher": teacher}),
            ("opd", {"teacher": {**teacher, "dtype": "float32"}}),
        ]
    ):
        run = small_run(
            dataset, algorithm={"name": name}, evaluation={"problems": str(problems)}, batches={"size": 4, "total_prompts": 4},
            **changes,
        )  # fmt: skip
        own = evaluation_file(tmp_path / "work" / str(number), 0)
        with measure._evaluated_once(prepare(run), tmp_path / "work" / str(number)):
            found.append(own.read_text() if own.exists() else None)
            atomic_write(own, str(number))
    assert found == [None, None, "0", "1", None]


def test_more_samples_than_a_digit_can_count_are_refused(tmp_path: Path) -> None:
    folder = write_small_dataset(tmp_path / "dataset", [example(n) for n in range(4)])
    cell = Cell(
        profile="pocket",
        baseline="student",
        changes={"dataset.folder": str(folder), "evaluation.samples": 10},
    )
    with pytest.raises(UserError, match=r"evaluation\.samples is above 9"):
        checked("base", cell, tmp_path / "work")
