"""What ends a run: its steps, its budget, its patience."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import UserError
from training.config import RunConfig, run_from
from training.preflight.reporting import reporter_problems, stopping_lines
from training.stopping import Spent, ended_by, ending_line


def run(**changes: Any) -> RunConfig:
    required = {"output": "out", "dataset": {"folder": "data"}, "student": {"model": "pocket/student"}}
    return run_from({**required, "teacher": {"model": "pocket/teacher"}, **changes}, "test")


def steps_of(tokens: list[int], budget: int) -> int:
    """Return the number of steps that a run with these tokens per step does."""
    settings, spent = run(budget={"max_tokens": budget}).budget, Spent()
    for step, count in enumerate(tokens, start=1):
        spent = spent.plus({"response_tokens": count, "seconds": 1.0})
        if ended_by(settings, step, len(tokens), spent) is not None:
            return step
    raise AssertionError("the last step ends a run")


@given(
    st.lists(st.integers(1, 50), min_size=40, max_size=40),
    st.lists(st.integers(1, 50), min_size=40, max_size=40),
    st.integers(1, 40),
)
def test_a_budget_of_tokens_ends_two_methods_at_the_same_count_within_one_batch(
    first: list[int], second: list[int], budget: int
) -> None:
    for tokens in (first, second):
        steps = steps_of(tokens, budget)
        assert sum(tokens[: steps - 1]) < budget <= sum(tokens[:steps])


def test_hours_are_those_of_the_completed_steps() -> None:
    rows = [{"response_tokens": 10.0, "seconds": 1800.0}] * 3
    spent = [Spent.by(rows[:count]) for count in range(4)]
    assert spent[3] == Spent(tokens=30, seconds=5400.0)
    found = [ended_by(run(budget={"max_hours": 1.0}).budget, 1, 9, one) for one in spent]
    assert found == [None, None, "max_hours", "max_hours"]


def test_without_a_budget_only_the_last_step_ends_a_run() -> None:
    much = Spent(tokens=1e12, seconds=1e9)
    assert [ended_by(run().budget, step, 3, much) for step in (1, 2, 3)] == [None, None, "steps"]
    assert ended_by(run(budget={"max_tokens": 1}).budget, 3, 3, much) == "steps"


@pytest.mark.parametrize(
    ("changes", "ending", "words"),
    [
        ({"budget": {"max_tokens": 1000}}, "max_tokens", "1,012 response tokens (budget.max_tokens 1,000)"),
        ({"budget": {"max_hours": 0.5}}, "max_hours", "0.51 hours of steps (budget.max_hours 0.5)"),
        (
            {"evaluation": {"problems": "x", "every_steps": 2, "patience": 3}}, "patience",
            "3 evaluations without a better accuracy (evaluation.patience)",
        ),
    ],
)  # fmt: skip
def test_the_end_is_explained(changes: dict[str, Any], ending: Any, words: str) -> None:
    line = ending_line(ending, run(**changes), 5, 60, Spent(tokens=1012, seconds=1830.0))
    assert line == (
        f"the training ends after step 5 of 60: {words}; the learning rate followed its schedule over 60 steps"
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"evaluation": {"problems": "x", "keep_best": True}}, "keep_best compares evaluations during"),
        ({"evaluation": {"problems": "x", "patience": 2}}, "patience compares evaluations during"),
        ({"evaluation": {"problems": "x", "every_steps": 0}}, "evaluation.every_steps"),
        ({"evaluation": {"problems": "x", "every_steps": 1, "best_by": "loss"}}, "evaluation.best_by"),
        ({"budget": {"max_tokens": 0}}, "budget.max_tokens"),
        ({"budget": {"max_hours": 0}}, "budget.max_hours"),
        ({"report_to": ["mlflow"]}, "report_to"),
        ({"rollouts": {"samples_every": 0}}, "rollouts.samples_every"),
    ],
)
def test_invalid_settings_are_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run(**settings)


def test_settings_that_only_report_are_no_part_of_the_identity() -> None:
    plain = run().identity()
    reports = run(report_to=["wandb"], rollouts={"samples_every": 5}).identity()
    assert reports == plain and plain["budget"] == {"max_tokens": None, "max_hours": None}
    assert run(budget={"max_tokens": 5}).identity() != plain


def test_the_check_lists_evaluations_and_budget_and_refuses_what_is_not_installed() -> None:
    made = run(
        evaluation={"problems": "x", "every_steps": 10, "keep_best": True, "patience": 3},
        budget={"max_tokens": 5000, "max_hours": 1.5},
    )
    assert stopping_lines(made, most_tokens=5000) == [
        "evaluates  every 10 steps, the student with the best accuracy is exported, the run ends after 3 without a better"
        " accuracy",
        "budget     5,000 response tokens or 1.5 hours of steps",
    ]
    assert "more than all steps can have" in stopping_lines(made, most_tokens=4999)[1]
    assert stopping_lines(run(), most_tokens=1) == []
    assert reporter_problems(["tensorboard"]) == []
    (problem,) = reporter_problems(["tensorboard", "no_such_tracker"])
    assert problem.startswith("report_to: no_such_tracker is not installed: install it (pip install")


def test_a_budget_is_counted_by_hand() -> None:
    """30 tokens per step and a budget of 100 give 4 steps, 120 tokens."""
    assert steps_of([30] * 10, 100) == 4
