"""The best evaluation, patience, and evaluations that are stored, against cases by hand and brute force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.history import (
    Evaluation,
    best_of,
    described,
    estimates,
    is_due,
    out_of_patience,
    step_values,
)
from training.evaluation.stored import stored_or_new


def evaluation(step: int, right: int, of: int = 10) -> Evaluation:
    """Return an evaluation of problems with one sample, `right` of them correct."""
    return Evaluation(step=step, weights="00", grades=[[number < right] for number in range(of)])


def run(*right: int) -> list[Evaluation]:
    """Return evaluations after steps 0, 2, 4, ..."""
    return [evaluation(2 * number, one) for number, one in enumerate(right)]


@pytest.mark.parametrize(
    ("right", "step"),
    [((3,), None), ((3, 1), 2), ((9, 1, 4, 2), 4), ((0, 4, 4, 4), 2), ((0, 1, 2, 3), 6)],
)
def test_the_best_is_the_earliest_of_the_highest_after_the_first_step(
    right: tuple[int, ...], step: int | None
) -> None:
    best = best_of(run(*right), "accuracy")
    assert (None if best is None else best.step) == step


def test_the_measures_can_prefer_different_evaluations() -> None:
    """Two problems with four samples: four are right for one problem, or one for each."""
    narrow = Evaluation(step=1, weights="00", grades=[[True, True, True, True], [False] * 4])
    wide = Evaluation(step=2, weights="00", grades=[[True, False, False, False], [True, False, False, False]])
    assert step_values(narrow) == {"held_out_accuracy": 0.5, "held_out_pass_at_n": 0.5}
    assert described([wide]) == [{"step": 2, "accuracy": 0.25, "pass_at_n": 1.0}]
    found = [best_of([narrow, wide], by) for by in ("accuracy", "pass_at_n")]
    assert found == [narrow, wide]


@given(st.lists(st.integers(0, 10), min_size=2, max_size=12), st.integers(1, 5))
def test_patience_counts_the_evaluations_since_the_last_gain(right: list[int], patience: int) -> None:
    waited, highest = 0, -1
    for one in right[1:]:  # the first is before the training
        waited, highest = (0, one) if one > highest else (waited + 1, highest)
    assert out_of_patience(run(*right), "accuracy", patience) == (waited >= patience)
    assert not out_of_patience(run(*right), "accuracy", None)


def test_evaluations_are_due_at_every_interval_and_at_the_end() -> None:
    assert [step for step in range(1, 8) if is_due(3, step, is_last=step == 7)] == [3, 6, 7]
    assert not is_due(None, 3, is_last=True)


def test_a_stored_evaluation_is_not_repeated_unless_the_weights_differ(tmp_path: Path) -> None:
    asked: list[str] = []

    def graded(name: str, right: bool) -> tuple[list[list[bool]], dict[str, float]]:
        asked.append(name)
        return [[right]], {"entropy_mean": 0.5}

    first = stored_or_new(tmp_path, 4, "aa", lambda: graded("first", True))
    again = stored_or_new(tmp_path, 4, "aa", lambda: graded("again", False))
    assert again == first == Evaluation(step=4, weights="aa", grades=[[True]], values={"entropy_mean": 0.5})
    other = stored_or_new(tmp_path, 4, "bb", lambda: graded("other", False))
    assert other.grades == [[False]] and asked == ["first", "other"]
    (path,) = (tmp_path / "evaluations").iterdir()
    path.write_text(path.read_text().replace("false", "true"))  # its checksum is now wrong
    assert stored_or_new(tmp_path, 4, "bb", lambda: graded("damaged", False)).grades == [[False]]
    assert asked[-1] == "damaged" and json.loads(path.read_text())["step"] == 4


def test_a_gain_is_paired() -> None:
    before = [[False] * 4, [True] * 4] * 20
    after = [[True, False, False, False], [True] * 4] * 20
    found = estimates(before, after)
    assert (found["before"]["value"], found["after"]["value"]) == (0.5, 0.625)
    gain = found["gain"]
    assert (
        gain["value"] == pytest.approx(0.125) and 0.08 < gain["low"] < gain["high"] < 0.17 and gain["n"] == 40
    )


def test_a_single_sample_has_wilsons_interval() -> None:
    found = estimates([[False]] * 4, [[True]] * 3 + [[False]])["after"]
    assert (found["value"], found["interval"]) == (0.75, "wilson")
