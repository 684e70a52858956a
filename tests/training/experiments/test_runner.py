"""The runner: which cells are measured, in which order, with which workers, and what becomes of a cell that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from tasks.errors import UserError
from tests.training.experiments.test_stored import RESULT
from tests.training.small_run import small_run
from training.config import run_folder
from training.experiments import runner
from training.experiments.cell import Cell
from training.experiments.measure import Job
from training.experiments.runner import Found, Outcome, check_cells, in_order, run_cells
from training.experiments.stored import CellResult, read_cells, write_cell
from training.loop import Stopped
from training.plan import resolve


def job(label: str, seed: int = 0, algorithm: str = "opd", **placement: Any) -> Job:
    """Return a checked cell."""
    cell = Cell(profile="pocket", algorithm=algorithm, changes={"batches.total_prompts": 16}, seed=seed)
    run = small_run(
        Path("d"), algorithm={"name": algorithm}, placement={"kind": "cpu", "engines": 1, **placement}
    )
    return Job(label=label, cell=cell, run=run, plan=resolve(run), fingerprint=f"{label}-{seed}", steps=1)


def result_of(one: Job) -> CellResult:
    return replace(RESULT, key=one.cell.key, fingerprint=one.fingerprint)


class Shared:
    """Stands for the workers of one placement, and counts them."""

    opened: ClassVar[list[Any]] = []
    open_now: ClassVar[int] = 0

    def __init__(self, placement: Any) -> None:
        self.placement = placement

    def __enter__(self) -> Shared:
        Shared.opened.append(self.placement)
        Shared.open_now += 1
        assert Shared.open_now == 1, "two sets of workers at once"
        return self

    def __exit__(self, *_: object) -> None:
        Shared.open_now -= 1


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Replace the measurement by a function of the job; what it is called with is recorded."""
    calls: list[str] = []
    Shared.opened, Shared.open_now = [], 0

    def use(measure: Callable[[Job], CellResult] = result_of) -> list[str]:
        def called(one: Job, _workers: Any, _command: str) -> CellResult:
            calls.append(f"{one.label} {one.cell.seed}")
            return measure(one)

        monkeypatch.setattr(runner, "measure", called)
        monkeypatch.setattr(runner, "SharedWorkers", Shared)
        return calls

    return use


def run(jobs: Sequence[Job], folder: Path, max_hours: float | None = None) -> list[Outcome]:
    begun, seen = list[Job](), list[Outcome]()
    found = run_cells(
        jobs, results=folder, command="c", max_hours=max_hours, begin=begun.append, report=seen.append
    )
    assert found == seen
    assert [one.cell for one in begun] == [one.cell for one in seen if one.state != "left"]
    return found


def test_cells_share_the_workers_of_all_that_they_need(
    tmp_path: Path, measured: Callable[..., list[str]]
) -> None:
    calls = measured()
    jobs = [job("A"), job("B", algorithm="opsd"), job("C", algorithm="sft"), job("A", 1)]
    assert [one.state for one in run(jobs, tmp_path)] == ["measured"] * 4
    assert calls == ["A 0", "B 0", "C 0", "A 1"]
    (placement,) = Shared.opened
    assert (placement.count("teacher"), placement.count("reference")) == (1, 1)
    assert len(read_cells(tmp_path)) == 4


def test_another_placement_gets_its_own_workers(tmp_path: Path, measured: Callable[..., list[str]]) -> None:
    calls = measured()
    run([job("A"), job("two", engines=2), job("B", algorithm="uopd")], tmp_path)
    assert calls == ["A 0", "B 0", "two 0"] and [one.count("rollout") for one in Shared.opened] == [1, 2]


def test_seeds_come_one_after_another_and_engines_are_not_exchanged_within_one() -> None:
    other = replace(job("small"), run=small_run(Path("d"), lengths={"max_response_tokens": 64}))
    jobs = [
        job("A"),
        other,
        job("B"),
        job("A", 1),
        replace(other, cell=replace(other.cell, seed=1)),
        job("B", 1),
    ]
    assert [(one.label, one.cell.seed) for one in in_order(jobs)] == [
        ("A", 0), ("B", 0), ("small", 0), ("A", 1), ("B", 1), ("small", 1),
    ]  # fmt: skip


def test_a_cell_that_fails_is_reported_and_the_others_are_measured(
    tmp_path: Path, measured: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(one: Job) -> CellResult:
        if one.label == "A":
            raise UserError("step 3 has loss nan: lower the rate")
        if one.label == "B":
            raise RuntimeError("a shape\nis wrong")
        return result_of(one)

    measured(measure)
    found = run([job("A"), job("B", algorithm="uopd"), job("C", algorithm="sft")], tmp_path)
    assert [(one.state, one.said) for one in found[:2]] == [
        ("failed", "step 3 has loss nan: lower the rate"), ("failed", "RuntimeError: a shape is wrong"),
    ]  # fmt: skip
    assert found[2].state == "measured" and list(read_cells(tmp_path)) == [found[2].cell.key]
    assert "Traceback" in capsys.readouterr().err


def test_a_requested_stop_ends_the_experiment(tmp_path: Path, measured: Callable[..., list[str]]) -> None:
    def measure(one: Job) -> CellResult:
        if one.label == "B":
            raise Stopped("stopped after step 3")
        return result_of(one)

    calls = measured(measure)
    with pytest.raises(Stopped):
        run([job("A"), job("B", algorithm="uopd"), job("C", algorithm="sft")], tmp_path)
    assert calls == ["A 0", "B 0"] and Shared.open_now == 0 and len(read_cells(tmp_path)) == 1


def test_no_cell_is_begun_that_the_budget_does_not_cover(
    tmp_path: Path, measured: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def measure(one: Job) -> CellResult:
        now[0] += 1000.0
        return result_of(one)

    calls = measured(measure)
    found = run([job("A", seed) for seed in range(5)], tmp_path, max_hours=1.0)
    assert calls == ["A 0", "A 1", "A 2"]
    assert [(one.state, one.said) for one in found[3:]] == [
        ("left", "the budget (max_hours 1) does not cover it")
    ] * 2


def test_checkpoints_of_a_stored_cell_are_deleted(tmp_path: Path, measured: Callable[..., list[str]]) -> None:
    measured()
    one = job("A")
    one = replace(one, run=one.run.model_copy(update={"output": tmp_path / "work"}))
    folder = run_folder(one.run.output, one.fingerprint)
    (folder / "checkpoints/step-1").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("")
    run([one], tmp_path / "results")
    assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]


def checks(monkeypatch: pytest.MonkeyPatch, folder: Path, *cells: tuple[str, Cell]) -> Found:
    def checked(label: str, cell: Cell, _work: Path) -> Job:
        if label == "wrong":
            raise UserError("one problem\nanother")
        return replace(job(label, cell.seed), cell=cell)

    monkeypatch.setattr(runner, "checked", checked)
    return check_cells(cells, results=folder, work=folder)


def test_a_stored_cell_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second = job("A"), job("A", 1)
    write_cell(tmp_path, result_of(first))
    found = checks(monkeypatch, tmp_path, ("A", first.cell), ("A", second.cell))
    assert [one.cell for one in found.jobs] == [second.cell] and not found.problems
    (stored,) = found.stored
    assert (stored.state, stored.said) == (
        "stored",
        "pass@1 37.5% -> 50.0% in 2 steps, 90 response tokens, 2 s",
    )


def test_a_result_of_another_dataset_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = job("A")
    write_cell(tmp_path, replace(result_of(one), fingerprint="other"))
    (problem,) = checks(monkeypatch, tmp_path, ("A", one.cell)).problems
    assert (
        "row 'A', seed 0" in problem and f"{one.cell.key}.json was measured with another dataset" in problem
    )


def test_every_problem_of_all_cells_is_found_and_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = Cell(profile="pocket", algorithm="sft")
    found = checks(
        monkeypatch, tmp_path, ("wrong", wrong), ("A", job("A").cell), ("wrong", replace(wrong, seed=1))
    )
    assert found.problems == (
        "row 'wrong', seed 0, and 1 other cell: one problem",
        "row 'wrong', seed 0, and 1 other cell: another",
    )
