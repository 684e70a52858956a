"""The cost of experiments: tokens and hours computed by hand, rates given or measured, shared and stored cells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prompts import load_prompt
from tasks.config import load_config
from tasks.errors import UserError
from tasks.plan_settings import TrainingRates
from tests.training.experiments.hand_made import experiment, result
from training.experiments.cell import Cell
from training.experiments.cost import (
    Work,
    cell_work,
    experiment_files,
    measured_rates,
    plan_lines,
    row_costs,
)
from training.experiments.grid import row_cells

PLAN = {"plan.solution_tokens": 100, "plan.problem_chars": 400}
CONFIG = load_config("pocket", PLAN)
TEXT = sum(
    round(len(message["content"]) / 4) + 5 for message in load_prompt("teacher/solve").render(problem="")
)
PROMPT = TEXT + 7 + 100  # the prompt's own text, the start of the reply, a problem of 400 characters
RATES = TrainingRates(generation=1000, scoring=2000, training=500)
ROLLOUTS = 30 * 16 * 4  # of the profile: 480 prompts in batches of 16, four rollouts each
EVALUATED = 200 * 4  # held-out problems, samples


def work(algorithm: str | None = "uopd", baseline: str | None = None, **changes: object) -> Work:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return cell_work(Cell(profile="pocket", algorithm=algorithm, baseline=baseline, changes=dotted), CONFIG)  # type: ignore[arg-type]


def test_a_training_generates_scores_and_trains_on_all_rollouts() -> None:
    found = work()
    assert found.requests == ROLLOUTS + 2 * EVALUATED
    assert found.generated == 100 * found.requests
    assert found.scored == found.trained == ROLLOUTS * (PROMPT + 100)
    seconds = found.generated / 2000 + found.scored / 2000 + found.trained / 500
    assert found.hours(RATES) == pytest.approx(seconds / 3600)
    assert (found.engines, found.students, found.gpus) == (2, 1, 1)


@pytest.mark.parametrize(
    ("algorithm", "passes"), [("grpo", 0), ("opd_rkl", 1), ("kd", 1), ("reopold", 2), ("core", 3), ("sft", 0)]
)
def test_every_forward_pass_counts(algorithm: str, passes: int) -> None:
    found = work(algorithm, rollouts__group_size=4)
    assert found.scored == passes * found.trained > -1
    sampled = algorithm not in ("kd", "sft")
    assert found.requests == 2 * EVALUATED + ROLLOUTS * sampled


def test_evaluations_between_steps_count() -> None:
    assert work(evaluation__every_steps=10).requests == ROLLOUTS + 4 * EVALUATED  # at 0, 10, 20, 30
    assert work(evaluation__every_steps=30).requests == ROLLOUTS + 2 * EVALUATED


def test_a_budget_of_tokens_ends_the_run_after_the_batch_that_reaches_it() -> None:
    assert work(budget__max_tokens=6401).trained == 2 * 64 * (PROMPT + 100)
    assert work(budget__max_tokens=10**9).trained == ROLLOUTS * (PROMPT + 100)


def test_a_response_is_not_longer_than_allowed() -> None:
    found = work(lengths__max_response_tokens=60)
    assert found.generated == 60 * found.requests
    assert (
        cell_work(Cell(profile="pocket", algorithm="uopd"), load_config("pocket")).generated
        == 384 * found.requests
    )


def test_a_baseline_is_one_evaluation() -> None:
    found = work(None, "student")
    assert (found.requests, found.generated, found.scored, found.trained) == (800, 80_000, 0, 0)


@pytest.mark.parametrize(
    ("profile", "algorithm", "gpus", "engines", "scorers", "students"),
    [
        ("paper-1.7b", "uopd", 4, 2, 1, 1),
        ("paper-1.7b", "grpo", 3, 2, 1, 1),
        ("paper-4b", "uopd", 4, 4, 4, 4),
        ("paper-4b", "grpo", 4, 4, 4, 4),
    ],
)
def test_a_cell_holds_all_gpus_of_its_placement(
    profile: str, algorithm: str, gpus: int, engines: int, scorers: int, students: int
) -> None:
    cell = Cell(profile=profile, algorithm=algorithm, changes={"batches.total_prompts": 128})
    found = cell_work(cell, load_config(profile))
    assert (found.gpus, found.engines, found.scorers, found.students) == (gpus, engines, scorers, students)


def test_epochs_need_the_number_of_problems() -> None:
    cell = Cell(profile="eopd-1.7b", algorithm="eopd", changes={"dataset.held_out": 200})
    config = load_config("eopd-1.7b", {"plan.training_prompts": 1000})
    assert cell_work(cell, config).trained == pytest.approx(
        24 * 128 * (TEXT + 7 + 75 + 1200)
    )  # 3,000 of 128 each
    with pytest.raises(UserError, match=r"set plan\.training_prompts"):
        cell_work(cell, load_config("eopd-1.7b", {"plan.training_prompts": None}))


def test_cells_count_once_and_stored_ones_are_not_left(tmp_path: Path) -> None:
    made = experiment(tmp_path)
    rows = [(row.label, row_cells(made, row)) for row in made.rows]
    stored = {cell.key: result(cell, "001100") for cell in rows[1][1][:2]}
    costs = row_costs([*rows, ("again", rows[1][1])], CONFIG, RATES, stored, seen := set())
    assert [(one.label, one.cells, one.stored) for one in costs] == [
        ("Student (base)", 1, 0), ("OPD", 3, 2), ("UOPD", 3, 0), ("k | 128", 3, 0), ("again", 0, 0),
    ]  # fmt: skip
    assert len(seen) == 10
    opd = costs[1]
    assert opd.gpu_hours == pytest.approx(3 * work("opd").hours(RATES))
    assert opd.left == pytest.approx(work("opd").hours(RATES))
    assert all(one.hours is None for one in row_costs(rows, CONFIG, None, {}, set()))


def test_rates_are_the_means_of_stored_trainings(tmp_path: Path) -> None:
    cells = row_cells(experiment(tmp_path), experiment(tmp_path).rows[2])
    metrics = {
        "rollout_tokens_per_second": 900.0,
        "trained_tokens_per_second": 300.0,
        "tokens": 5000,
        "seconds_teacher": 2.0,
    }
    found = [result(cell, "0", metrics=metrics) for cell in cells]
    found[1] = result(cells[1], "0", metrics={**metrics, "rollout_tokens_per_second": 1500.0})
    assert measured_rates(found) == TrainingRates(generation=550, scoring=2500, training=300)
    assert measured_rates([result(cells[0], "0", metrics={"tokens": 5000})]) is None
    assert measured_rates([]) is None


def test_the_plan_prints_every_assumption(tmp_path: Path) -> None:
    experiment(tmp_path)
    rates = {"generation": 1000, "scoring": 2000, "training": 500}
    given = {**PLAN, "plan.training_rates": rates, "plan.gpu_hour_price": 2.5}
    text = "\n".join(plan_lines(str(tmp_path / "experiment.yaml"), given, {}))
    for part in (
        "(plan.problem_chars) 400",
        "(plan.solution_tokens) 100",
        "plan.training_rates): generation 1,000",
        "at 2.5 a",
    ):
        assert part in text
    hours = sum(3 * work(name).hours(RATES) for name in ("opd", "uopd", "uopd")) + work(
        None, "student"
    ).hours(RATES)
    assert f"left: 10 cells, {hours:,.1f} GPU-hours" in text
    assert f"money: {2.5 * hours:,.0f} for all" in text
    without = "\n".join(plan_lines(str(tmp_path / "experiment.yaml"), PLAN, {}))
    assert "GPU-hours need rates: set plan.training_rates, or run some cells of the profile" in without


def test_the_whole_paper_edition_is_costed() -> None:
    assert len(experiment_files("paper")) > 30
    text = plan_lines("paper/uopd-main, paper/uopd-cost", {}, {})
    rows = [re.split(r"\s{2,}", line.strip()) for line in text]
    cost = [row for row in rows if row[0] == "UOPD"]
    assert [row[1] for row in cost] == ["3", "0"], "the cells of uopd-cost are those of uopd-main"


def test_only_assumptions_can_be_changed() -> None:
    with pytest.raises(
        UserError, match=r"OVERRIDES has select\.target, but cells have the settings of their experiment"
    ):
        plan_lines("paper/uopd-main", {"select.target": 5}, {})
