"""The grader: the grades of `tasks.answers.grade`, in worker processes that may die and never stay behind."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from typing import Any, ClassVar

import psutil
import pytest

import training.rewards
from tasks.answers import grade
from tasks.errors import UserError
from tasks.processes.worker_process import WorkerDied
from training.rewards import Grader

GOLD = ["4", "\\frac{1}{2}", "50\\%", "x+1", "2\\sqrt{2}", "(1,2)", "1, 2", "\\{1,2\\}", "3.142", "12 cm"]
RESPONSES = [
    "\\boxed{4}", "\\boxed{4.0} and so", "\\boxed{0.5}", "\\boxed{50}", "\\boxed{1+x}", "\\boxed{\\sqrt{8}}",
    "\\boxed{1}, \\boxed{2}", "\\boxed{(1,2)}", "\\boxed{(2,1)}", "\\boxed{\\{2,1\\}}", "\\boxed{\\pi}", "\\boxed{12}",
    "The answer is 4.", "\\boxed{4", "", "<think>\\boxed{4}", "<think>\\boxed{5}</think>\\boxed{4}", "\\boxed{}",
    "\\boxed{1/2}", "\\boxed{x + 2 - 1}",
]  # fmt: skip
PAIRS = [(text, label) for label in GOLD for text in RESPONSES]


@pytest.fixture(scope="module")
def expected() -> list[float]:
    return [float(grade(text, label)) for text, label in PAIRS]


def children() -> list[psutil.Process]:
    return psutil.Process(os.getpid()).children(recursive=True)


def results(grader: Grader, pairs: Sequence[tuple[str, str]]) -> list[float]:
    futures = [grader.submit(*pair) for pair in pairs]
    return [one.result(timeout=300) for one in futures]


# --- real processes ----------------------------------------------------------------------------------------------


def test_grades_in_any_order_are_those_of_grade_also_after_a_worker_was_killed(expected: list[float]) -> None:
    before = set(children())
    assert len(PAIRS) == 200 and 10 < sum(expected) < 100
    with Grader(2) as grader:
        assert results(grader, PAIRS) == expected
        workers = [one for one in children() if one not in before and one.ppid() == os.getpid()]
        workers = [one for one in workers if "tasks.processes.worker_process" in one.cmdline()]
        assert len(workers) == 2
        loaded = {mapped.path for one in workers for mapped in one.memory_maps()}
        assert {path for path in loaded if "/torch/" in path or "/_raylet" in path} == set()
        order = random.Random(0).sample(range(200), 200)
        futures = [grader.submit(*PAIRS[index]) for index in order]
        for one in workers:  # while they grade, or after
            one.kill()
        assert [one.result(timeout=300) for one in futures] == [expected[index] for index in order]
        left = [one for one in children() if one not in before]
    _, alive = psutil.wait_procs(left, timeout=20)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


# --- processes that are threads here ------------------------------------------------------------------------------


class Scripted:
    """A worker process that grades in this thread, dies at the response "dies", and blocks at "waits" until it is stopped."""

    started: ClassVar[list[Scripted]] = []
    broken = False

    def __init__(self) -> None:
        if self.broken:
            raise OSError("no more processes")
        self.stopped = threading.Event()
        self.calls: list[int] = []
        self.started.append(self)

    def call(self, function: Any, pairs: Sequence[tuple[str, str]]) -> Any:
        texts = [text for text, _ in pairs]
        self.calls.append(len(texts))
        if "waits" in texts:
            self.stopped.wait(60)
            raise WorkerDied("stopped")
        if "dies" in texts:
            raise WorkerDied("died")
        return function(pairs)

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Scripted]]:
    monkeypatch.setattr(Scripted, "started", [])
    monkeypatch.setattr(training.rewards, "WorkerProcess", Scripted)
    yield Scripted
    assert all(one.stopped.is_set() for one in Scripted.started)


def test_a_response_that_ends_every_process_is_named_and_costs_the_others_nothing(
    scripted: type[Scripted],
) -> None:
    with Grader(1) as grader:
        futures = [grader.submit(text, "4") for text in ("\\boxed{4}", "dies", "\\boxed{5}", "\\boxed{4.0}")]
        assert [futures[index].result(timeout=60) for index in (0, 2, 3)] == [1.0, 0.0, 1.0]
        with pytest.raises(
            UserError, match="3 processes in a row died while they graded a response of 4 char"
        ):
            futures[1].result(timeout=60)
        assert results(grader, [("\\boxed{4}", "4")]) == [1.0]


def test_what_grading_raises_is_raised_by_its_future_alone(
    scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(text: str, label: str) -> bool:
        return grade(text, label) if text else 1 / 0 > 1

    monkeypatch.setattr(training.rewards, "grade", fails)
    with Grader(1) as grader:
        first, second = grader.submit("", "4"), grader.submit("\\boxed{4}", "4")
        assert second.result(timeout=60) == 1.0
        with pytest.raises(ZeroDivisionError):
            first.result(timeout=60)
    monkeypatch.setattr(scripted, "broken", True)
    with Grader(1) as grader, pytest.raises(OSError, match="no more processes"):
        grader.submit("\\boxed{4}", "4").result(timeout=60)


def test_the_end_of_the_block_cancels_what_is_not_graded(scripted: type[Scripted]) -> None:
    with Grader(2) as grader:
        waiting: list[Future[float]] = [grader.submit("waits", "4") for _ in range(2)]
        while sum(one.calls.count(1) for one in scripted.started) < 2:
            threading.Event().wait(0.01)
        waiting += [grader.submit("\\boxed{4}", "4") for _ in range(100)]
        mine = grader.submit("\\boxed{4}", "4")
        assert mine.cancel()
    assert wait(waiting, timeout=60).not_done == set()
    for one in waiting:
        with pytest.raises(CancelledError):
            one.result()
    with pytest.raises(RuntimeError, match="inside its `with` block"):
        grader.submit("\\boxed{4}", "4")


def test_a_response_has_the_value_of_the_first_answer_that_it_matches() -> None:
    values = (("\\frac{1}{2}", 0.5), ("7", 0.25), ("0.5", 0.125))
    given = ["\\boxed{0.5}", "\\boxed{7}", "\\boxed{8}", "no answer"]
    assert training.rewards._outcomes([(text, values) for text in given]) == [0.5, 0.25, 0.0, 0.0]
    assert training.rewards._outcomes([("\\boxed{7}", ())]) == [0.0]
