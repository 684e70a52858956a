"""The training loop: generate, score, update, sync, log, checkpoint. It reads an objective's declaration, never its name."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.core.errors import UserError
from training.check import Prepared, prepare
from training.config import RunConfig, project_path
from training.crew import Crew, assembled, measuring
from training.data import columns
from training.engine.actors import ActorLost
from training.engine.checkpoints import latest, read_record
from training.evaluation.held_out import evaluate, read_held_out
from training.measures import step_row
from training.methods import compose
from training.objectives.base import Objective
from training.records import Records, say
from training.results import Outcome, finished, write_results
from training.rollout.sync import check_gap, check_versions
from training.rounds import Round, draw_round, micro_batches
from training.self_tests import self_test

__all__ = ["Stopped", "run"]

MAX_RESTARTS = 3
"""Deaths of a student or of the teacher after which the run gives up; each time it goes on from its last checkpoint."""


class Stopped(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C) and has written a checkpoint: started again, it continues."""


def run(config: RunConfig) -> Outcome:
    """Train to the end (or go on where an earlier start stopped) and write the results into the output folder.

    Raises `UserError` for what a person can mend, `Stopped` when it was asked to stop.
    """
    prepared = prepare(config)
    folder = project_path(config.output)
    done = finished(folder, prepared.fingerprint)
    if done is not None:
        say(f"this run is finished: {folder}")
        return done
    objective = compose(config)
    for deaths in range(MAX_RESTARTS + 1):
        try:
            with assembled(prepared, objective, say) as crew:
                return _train(crew, prepared, objective, folder)
        except ActorLost as error:
            say(
                f"{error}; starting again from the last checkpoint ({deaths + 1} of at most {MAX_RESTARTS} times)"
            )
    raise UserError(f"actors of this run died {MAX_RESTARTS + 1} times: look for what ends them (memory?)")


def _train(crew: Crew, prepared: Prepared, objective: Objective, folder: Path) -> Outcome:
    """All steps that are left, between a measurement before the first and one after the last."""
    config, total = prepared.run, prepared.schedule.steps
    held_out = read_held_out(config.evaluation, prepared.student)
    first, record = _resume(crew, prepared, folder)
    crew.students.sync(crew.engines, first)
    if config.self_tests:
        self_test(crew, prepared, first)
    before = record["before"] if first else evaluate(crew, held_out, "before", measuring(prepared))
    kept = {"fingerprint": prepared.fingerprint, "before": before}
    with Records(folder, step=first, steps=total) as records, _asked_to_stop() as stop:
        for step in _steps(crew, prepared, objective, records, first):
            due = step % config.checkpoints.every == 0
            if step < total and (due or stop):
                crew.students.save(folder / "checkpoints", step, kept, keep=config.checkpoints.keep)
            if step < total and stop:
                raise Stopped(
                    f"stopped after step {step} of {total}, with a checkpoint: start again to go on"
                )
    return write_results(
        crew, prepared, folder, before=before, after=evaluate(crew, held_out, "after", measuring(prepared))
    )


def _steps(
    crew: Crew, prepared: Prepared, objective: Objective, records: Records, first: int
) -> Iterator[int]:
    """Generate > score > update > sync > log, and the number of steps done.

    With `one_step_off` the next round is generated while the student learns from this one; not across a checkpoint, so that
    a continued run equals an undisturbed one.
    """
    config, total = prepared.run, prepared.schedule.steps
    weights = objective.prompt_weight(columns(prepared.rows)).weight
    coming: Future[Round] | None = None
    with ThreadPoolExecutor(1) as ahead:
        for step in range(first, total):
            round_ = coming.result() if coming else draw_round(crew, prepared, weights, step)
            coming = None
            if (
                config.overlap == "one_step_off"
                and (step + 1) % config.checkpoints.every
                and step + 1 < total
            ):
                coming = ahead.submit(draw_round, crew, prepared, weights, step + 1)
            staleness = _staleness(round_, step, allowed=int(config.overlap == "one_step_off"))
            started = time.perf_counter()
            if config.placement.kind == "colocated":
                crew.engines.sleep()
            batches = micro_batches(round_, objective, prepared)
            update = crew.students.step(batches)
            updated = time.perf_counter()
            if coming:
                coming.result()
            crew.students.sync(crew.engines, step + 1)
            seconds = {"student": updated - started, "sync": time.perf_counter() - updated}
            row = step_row(
                round_, batches, update, staleness=staleness, seconds={**round_.seconds, **seconds}
            )
            records.write(row)
            if staleness == 0:
                check_gap(row["gap_mean"], version=step)
            yield step + 1


def _staleness(round_: Round, step: int, *, allowed: int) -> int:
    """Updates that the round's weights are behind. `UserError` when a sync was skipped, or engines differ."""
    version = round_.generations[0].version
    check_versions(version, [generation.version for generation in round_.generations])
    check_versions(version if step - allowed <= version <= step else step, [version])
    return step - version


def _resume(crew: Crew, prepared: Prepared, folder: Path) -> tuple[int, dict]:
    """Steps done by the last checkpoint of this very run, and its record; a run of other settings is never mixed in."""
    checkpoint = latest(folder / "checkpoints")
    if checkpoint is None:
        return 0, {}
    record = read_record(checkpoint)
    if record.get("fingerprint") != prepared.fingerprint:
        raise UserError(
            f"{folder} holds checkpoints of a run with other settings, data or models: choose another output folder, or"
            " delete it"
        )
    step = crew.students.load(checkpoint)
    say(f"continues after step {step}")
    return step, record


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that is empty until SIGTERM or Ctrl-C: the step that is going on is finished and saved first."""
    asked: list[int] = []

    def note(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        say("asked to stop: finishing this step and writing a checkpoint (again: at once)")

    with ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(signal.signal, number, signal.signal(number, note))
        yield asked
