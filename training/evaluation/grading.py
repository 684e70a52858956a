"""Grading in worker processes while samples are still being generated: our grade, Math-Verify's, and clusters of answers."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, TypeVar

from tasks.answers.choice import extract_choice
from tasks.answers.equivalence import equivalent
from tasks.answers.extraction import extract_answer
from tasks.answers.grading import grade, math_verify_grade
from tasks.benchmarks.base import AnswerType
from tasks.errors import UserError
from tasks.processes.worker_process import WorkerDied, WorkerProcess
from tasks.uncertainty.clusters import cluster_answers

VERSION: Final = 1
"""Raise when a grade or a cluster can change."""
INVALID: Final = -1
"""Label of samples without an answer."""
BACKLOG: Final = 16
"""Batches that a grading process may have to do before another one is started."""
_ATTEMPTS: Final = 3
_RATIONAL: Final = re.compile(r"-?(\d{1,15}|\d{1,6}/\d{1,6})")
_OPEN_PAIR: Final = re.compile(r"\((-?\d{1,6}|-\\infty), ?(-?\d{1,6}|\\infty)\)")
Response = tuple[str, str | None, AnswerType]
"""A response, its gold answer, and the type of answer."""
Answers = tuple[Sequence[str | None], AnswerType]
"""All answers to one problem, and their type."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """The answer of a response, and whether it is correct: by our rules and, for mathematics, by Math-Verify's."""

    answer: str | None
    correct: bool
    math_verify: bool | None = None


NO_ANSWER: Final = Grade(answer=None, correct=False)


def grade_response(job: Response) -> Grade:
    """Grade one response; one that is judged elsewhere has no answer here."""
    text, gold, kind = job
    if kind == "text" or gold is None:
        return NO_ANSWER
    if kind == "choice":
        letter = extract_choice(text)
        return Grade(answer=letter, correct=letter == gold)
    answer = extract_answer(text)
    if answer is None:
        return Grade(answer=None, correct=grade(text, gold), math_verify=False)
    return Grade(answer=answer, correct=grade(text, gold), math_verify=_second_grade(answer, gold))


@lru_cache(maxsize=1 << 16)
def _second_grade(answer: str, gold: str) -> bool:
    """Return Math-Verify's grade. Plain numbers and pairs of them are compared here, since it would do no more."""
    for value in (_fraction, _pair):
        first, second = value(answer), value(gold)
        if first is not None and second is not None:
            return first == second
    return math_verify_grade(f"\\boxed{{{answer}}}", gold)


def _fraction(answer: str) -> Fraction | None:
    """Return the value of an integer or a fraction of integers."""
    with suppress(ZeroDivisionError):
        return Fraction(answer) if _RATIONAL.fullmatch(answer) else None
    return None


def _pair(answer: str) -> tuple[float, ...] | None:
    r"""Return the numbers of a point or an open interval, "(2, 5)" or "(-\infty, 5)", which Math-Verify reads as tuples."""
    found = _OPEN_PAIR.fullmatch(answer)
    return None if found is None else tuple(float(end.replace("\\infty", "inf")) for end in found.groups())


def cluster_labels(job: Answers) -> list[int]:
    """Return the cluster of each answer to one problem, by mathematical equivalence; `INVALID` for none."""
    answers, kind = job
    same = equivalent if kind == "math" else str.__eq__
    found = cluster_answers(answers, same, unparsed="one")
    return [INVALID if answer is None else label for answer, label in zip(answers, found.labels, strict=True)]


class GradingPool:
    """At most `workers` processes that call a function on batches of items; to be used as a context manager. They end with the
    block, or with this process however it ends. A worker that dies is replaced, and the items of its batch are tried again one by
    one. A process costs two CPU seconds before its first grade, so another one is started only if each has `BACKLOG` batches."""

    def __init__(self, workers: int) -> None:
        self._most = workers
        self._threads: list[ThreadPoolExecutor] = []  # of one thread each, which has one process
        self._given: list[list[Future[Any]]] = []  # what each has to do
        self._own = threading.local()
        self._lock = threading.Lock()
        self._workers: list[WorkerProcess] = []

    def __enter__(self) -> GradingPool:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for worker in self._workers:
                worker.stop()
        for thread in self._threads:
            thread.shutdown()
        for worker in self._workers:  # again, for one that was still starting
            worker.stop()

    def submit(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Future[list[Result]]:
        """Return the future results, in order. The result raises `UserError` if workers die on an item time and again. Not
        thread-safe."""
        self._given = [[one for one in given if not one.done()] for given in self._given]
        place = min(range(len(self._given)), key=lambda number: len(self._given[number]), default=0)
        if not self._given or (len(self._given[place]) >= BACKLOG and len(self._given) < self._most):
            place = len(self._given)
            self._threads.append(ThreadPoolExecutor(1, thread_name_prefix="grading"))
            self._given.append([])
        found = self._threads[place].submit(self._call, function, items)
        self._given[place].append(found)
        return found

    def _call(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        try:
            return self._worker().call(mapped, (function, items))
        except WorkerDied:
            self._discard()
        return [self._one(function, item) for item in items]

    def _one(self, function: Callable[[Item], Result], item: Item) -> Result:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._worker().call(function, item)
            except WorkerDied as error:
                self._discard()
                if attempt == _ATTEMPTS:
                    raise UserError(
                        f"{_ATTEMPTS} processes in a row died while they graded {str(item)[:100]!r}, possibly out of memory:"
                        " free memory and start again"
                    ) from error
        raise AssertionError("unreachable")

    def _worker(self) -> WorkerProcess:
        if not hasattr(self._own, "worker"):
            self._own.worker = WorkerProcess()
            with self._lock:
                self._workers.append(self._own.worker)
        return self._own.worker

    def _discard(self) -> None:
        with self._lock:
            if self._own.worker in self._workers:
                self._workers.remove(self._own.worker)
        self._own.worker.stop()
        del self._own.worker


def mapped(job: tuple[Callable[[Item], Result], Sequence[Item]]) -> list[Result]:
    """Return the results of a function for some items, in a worker."""
    function, items = job
    return [function(item) for item in items]
