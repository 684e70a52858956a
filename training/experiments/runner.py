"""Run the cells of an experiment one after another, with workers that stay alive between them.

A finished cell is a file; a cell that was interrupted continues from its last checkpoint; a cell that fails is reported and does
not stop the others.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

from tasks.errors import UserError, attempt
from tasks.processes.pace import duration
from tasks.storage.disk import atomic_write
from tasks.text import counted
from training.config import run_folder
from training.evaluation.history import avg_at_n
from training.experiments.cell import Cell
from training.experiments.measure import Job, checked, measure
from training.experiments.stored import CellResult, grades_of, read_cells, write_cell
from training.loop import Stopped
from training.preflight.memory import placement_of
from training.progress import CHECKPOINTS
from training.worker_set import SharedWorkers

__all__ = ["Found", "Outcome", "Tally", "check_cells", "run_cells"]

State = Literal["stored", "measured", "failed", "left"]
"""Whether a cell's result was found, is new, could not be made, or was not begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a cell. `said`: its pass@1, or why it has none."""

    label: str
    cell: Cell
    state: State
    said: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The checked cells of an experiment: the results that exist, the cells that have none, and the problems of others. A
    problem is there once, with the first cell that has it and the number of the others."""

    stored: tuple[Outcome, ...]
    jobs: tuple[Job, ...]
    problems: tuple[str, ...]


def check_cells(cells: Sequence[tuple[str, Cell]], *, results: Path, work: Path) -> Found:
    """Check every cell (label, cell) without starting a worker."""
    known, problems = read_cells(results), dict[str, list[str]]()
    stored, jobs = list[Outcome](), list[Job]()
    for label, cell in cells:
        said: list[str] = []
        job = attempt(said, lambda label=label, cell=cell: checked(label, cell, work))
        result = None if job is None else known.get(cell.key)
        if job is not None and result is None:
            jobs.append(job)
        elif job is not None and result is not None and result.fingerprint == job.fingerprint:
            stored.append(Outcome(label=label, cell=cell, state="stored", said=described(result)))
        elif result is not None:
            said.append(
                f"{results / f'{cell.key}.json'} was measured with another dataset, other models or other held-out problems:"
                " delete it, or give another folder of results"
            )
        for one in said:
            problems.setdefault(one, []).append(f"row {label!r}, seed {cell.seed}")
    found = tuple(f"{_places(places)}: {one}" for one, places in problems.items())
    return Found(stored=tuple(stored), jobs=tuple(jobs), problems=found)


def _places(places: Sequence[str]) -> str:
    """Return the first of the cells that have the same problem, and how many others there are."""
    return places[0] if len(places) == 1 else f"{places[0]}, and {counted(len(places) - 1, 'other cell')}"


def run_cells(
    jobs: Sequence[Job],
    *,
    results: Path,
    command: str,
    max_hours: float | None,
    begin: Callable[[Job], None],
    report: Callable[[Outcome], None],
) -> list[Outcome]:
    """Measure the cells in order, those of one seed before the next, and report the beginning and the outcome of each. No cell is
    begun that the budget of `max_hours` does not cover, by the mean time of the cells before. Raises `Stopped` after a requested
    stop."""
    began, outcomes = time.monotonic(), list[Outcome]()
    with ExitStack() as stack:
        shared: tuple[tuple[Any, ...], SharedWorkers] | None = None
        for job in in_order(jobs):
            spent = time.monotonic() - began
            if max_hours is not None and spent + mean_seconds(outcomes) > 3600 * max_hours:
                outcomes.append(
                    _outcome(job, "left", f"the budget (max_hours {max_hours:g}) does not cover it")
                )
            else:
                if shared is None or shared[0] != job.place:
                    stack.close()
                    plans = [one.plan for one in jobs if one.place == job.place]
                    shared = job.place, stack.enter_context(SharedWorkers(placement_of(*plans)))
                begin(job)
                outcomes.append(_attempted(job, shared[1], results, command))
            report(outcomes[-1])
    return outcomes


class Tally:
    """The outcomes of an experiment so far: a line for each, and the state of all cells in a file, if one is given."""

    def __init__(self, found: Found, say: Callable[[str], None], path: Path | None) -> None:
        self._found, self._say, self._path = found, say, path
        self._began = time.monotonic()
        self.outcomes: list[Outcome] = []
        self._write("waiting")

    def begin(self, job: Job) -> None:
        """Report that the next cell is being measured."""
        self._write("running")
        self._say(f"{self._place(len(self.outcomes) + 1)}, {job.label}, seed {job.cell.seed}: begun")

    def add(self, outcome: Outcome) -> None:
        """Report what became of a cell."""
        self.outcomes.append(outcome)
        self._say(
            f"{self._place(len(self.outcomes))}, {outcome.label}, seed {outcome.cell.seed}: {outcome.state}, {outcome.said};"
            f" {self.time()}"
        )
        self._write("waiting")

    def _place(self, number: int) -> str:
        return f"cell {number} of {len(self._found.jobs)}"

    @property
    def lacking(self) -> list[Outcome]:
        """The cells without a result."""
        return [one for one in self.outcomes if one.state in ("failed", "left")]

    def time(self) -> str:
        """Return the time so far, and that of the cells that are left by the mean of those that are measured."""
        each, left = mean_seconds(self.outcomes), len(self._found.jobs) - len(self.outcomes)
        spent = f"{duration(time.monotonic() - self._began)} elapsed"
        return f"{spent}, about {duration(each * left)} left" if each else spent

    def _write(self, next_state: Literal["waiting", "running"]) -> None:
        if self._path is None:
            return
        done = [*self._found.stored, *self.outcomes]
        waiting = in_order(self._found.jobs)[len(self.outcomes) :]
        rows = [
            {"row": one.label, "seed": one.cell.seed, "state": one.state, "result": one.said} for one in done
        ]
        rows += [
            {
                "row": one.label,
                "seed": one.cell.seed,
                "state": "waiting" if place else next_state,
                "result": "",
            }
            for place, one in enumerate(waiting)
        ]
        atomic_write(self._path, json.dumps({"time": self.time(), "cells": rows}) + "\n")


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs seed by seed, within a seed those that share rollout engines together, otherwise in the given order."""
    seeds = list(dict.fromkeys(job.cell.seed for job in jobs))
    engines = list(dict.fromkeys(job.engines for job in jobs))
    return sorted(jobs, key=lambda job: (seeds.index(job.cell.seed), engines.index(job.engines)))


def mean_seconds(outcomes: Sequence[Outcome]) -> float:
    """Return the mean seconds of the measured cells, 0 without one."""
    found = [one.seconds for one in outcomes if one.state == "measured"]
    return sum(found) / len(found) if found else 0.0


def described(result: CellResult) -> str:
    """Return pass@1 before and after the training, or of a baseline, and what the training took."""
    samples = result.evaluation["samples"]
    values = [avg_at_n(grades_of(point, samples).tolist()) for point in (result.curve[0], result.curve[-1])]
    if len(result.curve) == 1:
        return f"pass@1 {values[0]:.1%}"
    last = result.curve[-1]
    return (
        f"pass@1 {values[0]:.1%} -> {values[1]:.1%} in {counted(last.step, 'step')}, {last.tokens:,} response tokens,"
        f" {duration(last.seconds)}"
    )


def _attempted(job: Job, workers: SharedWorkers, results: Path, command: str) -> Outcome:
    """Measure a cell and store its result; return why that failed if it did."""
    began = time.monotonic()
    try:
        result = measure(job, workers, command)
        write_cell(results, result)
        rmtree(run_folder(job.run.output, job.fingerprint) / CHECKPOINTS, ignore_errors=True)
    except Stopped:
        raise
    except UserError as error:
        return _outcome(job, "failed", " ".join(str(error).split("\n")), time.monotonic() - began)
    except Exception as error:  # an error in one method must not cost the others their hours
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return _outcome(job, "failed", reason, time.monotonic() - began)
    return _outcome(job, "measured", described(result), time.monotonic() - began)


def _outcome(job: Job, state: State, said: str, seconds: float = 0.0) -> Outcome:
    return Outcome(label=job.label, cell=job.cell, state=state, said=said, seconds=seconds)
