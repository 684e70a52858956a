"""Grades of responses, clusters of answers, and the pool of workers."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.answers.choice import extract_choice, lettered
from tasks.answers.mathverify import verify
from tasks.benchmarks.base import AnswerType
from tasks.errors import UserError
from training.evaluation import grading
from training.evaluation.grading import Grade, GradingPool, _second_grade, cluster_labels, grade_response


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        (r"So \boxed{B}.", "B"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{D. 42}", "D"),
        (r"\boxed{42}", None),
        (r"\boxed{b}", "B"),
        ("The answer is (J).", "J"),
        ("answer: A. Wait, the answer is B.", "B"),
        ("The answer is Because", None),
        ("A good question", None),
        ("<think>the answer is (A)</think>the answer is (B)", "B"),
        ("<think>the answer is (A)", None),
    ],
)
def test_the_letter_of_a_response(response: str, letter: str | None) -> None:
    assert extract_choice(response) == letter


def test_options_have_letters() -> None:
    assert lettered("Which?", ["red", "blue"]) == "Which?\nA. red\nB. blue"


@pytest.mark.parametrize(
    ("text", "gold", "kind", "grade"),
    [
        (r"\boxed{\frac12}", "0.5", "math", Grade(answer=r"\frac12", correct=True, math_verify=True)),
        (r"\boxed{007}", "7", "math", Grade(answer="007", correct=True, math_verify=True)),
        (r"\boxed{8}", "7", "math", Grade(answer="8", correct=False, math_verify=False)),
        ("7", "7", "math", Grade(answer=None, correct=False, math_verify=False)),
        (r"\boxed{B}", "B", "choice", Grade(answer="B", correct=True)),
        ("A poem.", None, "text", Grade(answer=None, correct=False)),
    ],
)
def test_grades(text: str, gold: str | None, kind: AnswerType, grade: Grade) -> None:
    assert grade_response((text, gold, kind)) == grade


def test_fractions_have_the_grade_that_math_verify_gives_them() -> None:
    rng = random.Random(0)

    def number(most: int) -> str:
        sign = "-" if rng.random() < 0.2 else ""
        return f"{sign}{rng.randint(0, most)}" + (f"/{rng.randint(1, most)}" if rng.random() < 0.8 else "")

    pairs = [(number(most), number(most)) for most in (4, 12, 999_999) for _ in range(40)]
    pairs += [(f"{n}/{n + 1}", f"{n + 1}/{n + 2}") for n in range(999_990, 999_997)]  # they differ by 1e-12
    pairs += [(f"{12 * n}/{12 * d}", f"{n}/{d}") for n, d in ((1, 7), (5, 3), (83, 999), (0, 5))]
    pairs += [
        ("-0", "0"),
        ("007", "7"),
        ("-0/5", "0"),
        ("4/2", "2"),
        ("1/0", "2"),
        ("0/0", "1"),
        ("0/0", "2/0"),
    ]
    grades = [_second_grade.__wrapped__(*pair) for pair in pairs]
    assert grades == [verify(*pair, 10.0) is True for pair in pairs]
    assert sum(grades) == 11


def test_pairs_of_integers_have_the_grade_that_math_verify_gives_them() -> None:
    rng = random.Random(0)

    def pair() -> str:
        low, high = rng.choice(["-\\infty", "-1", "0", "1", "2"]), rng.choice(["\\infty", "1", "2"])
        return f"({low}, {high})" if rng.random() < 0.8 else f"({low},{high})"

    pairs = [(pair(), pair()) for _ in range(60)]
    grades = [_second_grade.__wrapped__(*one) for one in pairs]
    assert grades == [verify(*one, 10.0) is True for one in pairs]
    assert sum(grades) == 3


def test_answers_are_clustered_by_meaning_and_no_answer_is_invalid() -> None:
    assert cluster_labels((["1/2", None, "0.5", "3", None], "math")) == [0, -1, 0, 2, -1]
    assert cluster_labels((["A", "B", "A"], "choice")) == [0, 1, 0]


def fatal(job: tuple[str, str]) -> int:
    """Kill the worker: always for "always", and once for another path."""
    text, marker = job
    if text == "always":
        os._exit(1)
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(1)
    return len(text)


def test_a_worker_that_dies_is_replaced_and_a_deadly_item_is_named(tmp_path: Path) -> None:
    once = str(tmp_path / "died")
    with GradingPool(1) as pool:
        assert pool.submit(fatal, [("a", once), ("bcd", once)]).result() == [1, 3]
        deadly = pool.submit(fatal, [("always", once)])
        with pytest.raises(UserError, match=r"3 processes in a row died while they graded .*always"):
            deadly.result()
        assert pool.submit(grade_response, [(r"\boxed{5}", "5", "math")]).result()[0].correct
    assert grading.VERSION >= 1


def test_another_process_is_started_only_for_a_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, started = threading.Event(), list[object]()

    class Waiting:
        """A worker that grades nothing before the gate opens."""

        def __init__(self) -> None:
            started.append(self)

        def call(self, function: Callable[[Any], Any], item: Any) -> Any:
            assert gate.wait(30)
            return function(item)

        def stop(self) -> None: ...

    monkeypatch.setattr(grading, "WorkerProcess", Waiting)
    jobs: list[grading.Response] = [(r"\boxed{5}", "5", "math"), (r"\boxed{5}", "6", "math")]
    with GradingPool(2) as pool:
        found = [pool.submit(grade_response, jobs) for _ in range(grading.BACKLOG)]
        assert len(pool._threads) == 1
        found += [pool.submit(grade_response, jobs) for _ in range(5 * grading.BACKLOG)]
        assert len(pool._threads) == 2
        gate.set()
        assert [[one.correct for one in each.result()] for each in found] == [[True, False]] * len(found)
        assert len(started) == 2
