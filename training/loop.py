"""The training loop: generate, score, update, sync, log, checkpoint. It depends on the plan of the run, not on its
algorithm's name."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError
from tasks.processes.timeline import FILE, Timeline
from tasks.storage.locks import alone
from tasks.storage.metrics import read_metrics
from tasks.storage.rollout_samples import write_samples
from training.batch import RolloutBatch, generate_batch, micro_batches
from training.config import RunConfig, run_folder
from training.console import log_line, phase, show_table
from training.data.rows import columns
from training.export import RunResult, export_run, finished, record_latest
from training.loss_inputs import sequences_of
from training.metrics import step_metrics
from training.preflight.check import Prepared, data_lines, prepare
from training.preflight.memory import memory_table
from training.preflight.self_tests import self_test
from training.progress import CompletedStep, RunState, TrainingRun
from training.reporters import open_reporters
from training.rollout_samples import sample_rows
from training.rollouts.engine import Generation
from training.run_log import RunLog, RunTimer
from training.stopping import Spent, ending_line
from training.student.group import Update
from training.weight_sync.sync import check_mismatch, check_versions
from training.worker_set import StartWorkers, Workers, start_workers
from training.workers.actors import ActorLost

__all__ = ["Stopped", "run", "run_prepared"]

LOCK = "run.lock"
LOCK_WAIT_S = 600.0
"""Seconds that a run waits for an earlier start of the same run, which may still be writing its last checkpoint."""
MAX_RESTARTS = 3
"""Maximum number of restarts from the last checkpoint after a student, teacher or reference worker has died."""


class Stopped(Exception):
    """The run was stopped on request (SIGTERM, Ctrl-C) after writing a checkpoint, from which the next start continues."""


def run(config: RunConfig) -> RunResult:
    """Train to the end, continuing an earlier start if there is one, and write the results into the run's folder.

    Raises `UserError` for problems that the user can fix, and `Stopped` after a requested stop.
    """
    return run_prepared(prepare(config))


def run_prepared(prepared: Prepared, start: StartWorkers = start_workers) -> RunResult:
    """Do what `run` does, for a run that is already checked. `start`: how it gets its workers."""
    folder = run_folder(prepared.run.output, prepared.fingerprint)
    with alone(folder / LOCK, "a distillation run", wait_s=LOCK_WAIT_S, on_wait=log_line):
        done = finished(folder, prepared.fingerprint)
        if done is None:
            for line in data_lines(prepared):
                log_line(line)
            show_table(memory_table(prepared.memory))
            done = _train_with_restarts(prepared, folder, start)
        else:
            log_line(f"this run is already finished: {folder}")
        record_latest(folder)
    return done


def _train_with_restarts(prepared: Prepared, folder: Path, start: StartWorkers) -> RunResult:
    """Train, restarting from the last checkpoint if a worker dies."""
    timer = RunTimer(folder)
    for deaths in range(MAX_RESTARTS + 1):
        try:
            with _started(prepared, Timeline(folder / FILE), start) as workers:
                return _train(workers, prepared, folder, timer)
        except ActorLost as error:
            log_line(
                f"{error}; restarting from the last checkpoint (restart {deaths + 1} of at most {MAX_RESTARTS})"
            )
    raise UserError(
        f"workers of this run died {MAX_RESTARTS + 1} times: find out what kills them (often a lack of memory)"
    )


@contextmanager
def _phase(timeline: Timeline, what: str) -> Iterator[None]:
    """Say every few seconds that `what` goes on, and record how long it took."""
    with timeline.phase("training", what), phase(lambda seconds: f"{what}, {seconds:.0f} s"):
        yield


@contextmanager
def _started(prepared: Prepared, timeline: Timeline, start: StartWorkers) -> Iterator[Workers]:
    """Start all workers, and end them when the block ends."""
    with ExitStack() as stack:
        with _phase(timeline, "starting the workers"):
            workers = stack.enter_context(start(prepared, log_line))
        yield workers


def _train(workers: Workers, prepared: Prepared, folder: Path, timer: RunTimer) -> RunResult:
    """Run the remaining steps, with an evaluation before the first step and after the last one. The last step is saved too, so
    that evaluation and export can be repeated without training."""
    run, timeline = TrainingRun(workers=workers, prepared=prepared, folder=folder), Timeline(folder / FILE)
    with _phase(timeline, "loading the weights and checking the workers"):
        state, saved = run.resume()
        if prepared.run.self_tests:
            self_test(workers, prepared, state.step)
    if state.step == 0:
        with _phase(timeline, "evaluating the student before the training"):
            state = run.evaluated(state, "before training")
    timer.save()
    with _stop_on_signals() as stop:
        if state.ended is None:
            with timeline.phase("training", "steps"):
                state = _train_steps(run, state, saved, timer, stop)
        stop.at_once = (
            "stopped after the last step, with a checkpoint: start again to evaluate and export the student"
        )
        with _phase(timeline, "evaluating and exporting the student"):
            state = run.evaluated(state, "after training")
            return export_run(run, state, timer, exported=run.load_exported(state))


def _train_steps(
    run: TrainingRun, state: RunState, saved: Sequence[Generation], timer: RunTimer, stop: _StopRequest
) -> RunState:
    """Run the steps that follow a state until the run ends; return the last state. Raises `Stopped` after a requested stop."""
    prepared, folder, total = run.prepared, run.folder, run.prepared.schedule.steps
    config, steps = prepared.run, _steps(run.workers, prepared, state.step, saved)
    reporters = open_reporters(config.report_to, folder, first=state.step + 1, settings=config.identity())
    with closing(steps), RunLog(folder, step=state.step, steps=total, reporters=reporters) as run_log:
        spent = Spent.by(read_metrics(folder))
        for done in steps:
            timer.save()
            spent = spent.plus(done.metrics)
            with run_log.activity(f"evaluating the student after step {done.step}"):
                state = run.after(state, done, spent)
            run_log.write({**done.metrics, **state.metrics})
            if done.samples:
                write_samples(folder, done.step, done.samples)
            if done.metrics["staleness"] == 0 and "mismatch_mean" in done.metrics:
                check_mismatch(done.metrics["mismatch_mean"], version=done.step - 1)
            if run.must_save(state) or stop.requested:
                run.save(state, done.upcoming)
            if stop.requested:
                raise Stopped(
                    f"stopped after step {done.step} of {total}, with a checkpoint: start again to continue"
                )
            if state.ended is not None:
                break
        if state.ended not in (None, "steps"):
            log_line(ending_line(state.ended, config, state.step, total, spent))
    return state


def _samples(prepared: Prepared, batch: RolloutBatch) -> Sequence[Mapping[str, Any]]:
    """Return the table of sample rollouts of a step, empty if none is due."""
    every = prepared.run.rollouts.samples_every
    if every is None or (batch.step + 1) % every != 0:
        return ()
    decode = partial(prepared.student.tokenizer.decode, skip_special_tokens=False)
    return sample_rows(batch, prepared.rows, decode)


def _steps(
    workers: Workers, prepared: Prepared, first: int, saved: Sequence[Generation] = ()
) -> Generator[CompletedStep]:
    """Generate > score > update > sync. Yields each completed step from `first` on. `saved`: the rollouts of step `first`, if a
    checkpoint has them.

    The student trains on the first part of a batch while the teacher scores the next part. With `one_step_off` the next batch is
    generated (with the engines' current weights) and scored while the student trains on this one.
    """
    config, total = prepared.run, prepared.schedule.steps
    weights = prepared.plan.algorithm.prompt_weight(columns(prepared.rows)).weight
    one_step_off = config.overlap == "one_step_off"
    ready: RolloutBatch | None = None
    with ThreadPoolExecutor(1) as ahead:
        for step in range(first, total):
            began = time.perf_counter()
            batch = ready or generate_batch(
                workers, prepared, weights, step, saved=saved if step == first else ()
            )
            staleness = _staleness(prepared, batch, step)
            next_batch: Future[RolloutBatch] | None = None
            if one_step_off and step + 1 < total:
                next_batch = ahead.submit(generate_batch, workers, prepared, weights, step + 1)
            updates = _train_on(workers, prepared, batch, step)
            ready = next_batch.result() if next_batch else None
            waited = time.perf_counter()
            snapshot = workers.students.sync(workers.engines, step + 1)
            ended = time.perf_counter()
            yield CompletedStep(
                step=step + 1,
                metrics=partial(step_metrics, batch, updates, generates=prepared.plan.generates)(
                    staleness=staleness, sync=ended - waited, wall=ended - began
                ),
                weights=f"{snapshot.checksum:016x}",
                samples=_samples(prepared, batch),
                upcoming=ready.rollouts if ready and prepared.plan.samples else (),
            )


def _train_on(workers: Workers, prepared: Prepared, batch: RolloutBatch, step: int) -> tuple[Update, ...]:
    """Do the optimizer steps of a batch, each on its parts as soon as they are scored."""
    plan = prepared.plan
    if plan.run.placement.kind == "colocated":
        batch.scoring_seconds()  # wait: scoring and training must not allocate memory at the same time
        workers.engines.sleep()
    batch = _with_student_outputs(workers, prepared, batch)
    updates = []
    for number, parts in enumerate(batch.updates):
        known, outputs, offset = _with_sequence_loss(workers, prepared, batch, number)
        update = workers.students.step_in_parts(
            [partial(micro_batches, known, number, part, prepared) for part in range(len(parts))]
        )
        update = replace(update, loss=update.loss + offset, diagnostics=outputs)
        _check_finite(update, step)
        updates.append(update)
    return tuple(updates)


def _with_student_outputs(workers: Workers, prepared: Prepared, batch: RolloutBatch) -> RolloutBatch:
    """Return the batch with what the algorithm uses of the student before its first update, by a pass without gradient."""
    wanted = prepared.plan.student_outputs
    if "entropy" in wanted:
        scores = workers.students.scores(batch.sequences)
        batch = replace(batch, student_entropy=[one.entropy for one in scores])
        return replace(batch, old_logprobs=[one.sampled for one in scores]) if "sampled" in wanted else batch
    return replace(batch, old_logprobs=workers.students.logprobs(batch.sequences)) if wanted else batch


def _with_sequence_loss(
    workers: Workers, prepared: Prepared, batch: RolloutBatch, update: int
) -> tuple[RolloutBatch, Mapping[str, float], float]:
    """Return the batch with the slopes of the sequence loss of an optimizer step, by a pass of the student without gradient, its
    diagnostics, and what has to be added to the loss that the student reports, in which the sequence loss is linear. Without one:
    unchanged, none and 0."""
    sequence_loss = prepared.plan.algorithm.sequence_loss
    if sequence_loss is None:
        return batch, {}, 0.0
    chosen = [batch.sequences[index] for part in batch.updates[update] for index in part]
    logprobs = workers.students.logprobs(chosen)
    indices, sequences = sequences_of(batch, update, prepared.plan, logprobs)
    found = sequence_loss(sequences)
    known = replace(batch, sequence_slopes=dict(zip(indices, found.slopes.tolist(), strict=True)))
    linear = np.where(found.slopes == 0, 0.0, found.slopes * sequences.logprobs)
    return known, found.diagnostics, found.loss - float(linear.sum())


def _staleness(prepared: Prepared, batch: RolloutBatch, step: int) -> int:
    """Return how many batches the weights that generated the rollouts are behind. Raises `UserError` if a weight sync was
    skipped or the engines have different weights."""
    if not prepared.plan.samples:
        return 0
    allowed = int(prepared.run.overlap == "one_step_off")
    version = batch.rollouts[0].version
    check_versions(version, [generation.version for generation in batch.rollouts])
    check_versions(version if step - allowed <= version <= step else step, [version])
    return step - version


def _check_finite(update: Update, step: int) -> None:
    """Raise `UserError` if loss or gradient norm is not finite; no checkpoint of such an update is written."""
    if not (math.isfinite(update.loss) and math.isfinite(update.gradient_norm)):
        raise UserError(
            f"step {step + 1} has loss {update.loss} and gradient norm {update.gradient_norm} at learning rate"
            f" {update.learning_rate:.3g}, the student has diverged: lower optimizer.learning_rate or optimizer.max_gradient_norm"
        )


@dataclass(slots=True, kw_only=True)
class _StopRequest:
    """Whether a stop was requested; `at_once`: the message of an immediate stop, set while no step is running."""

    requested: bool = False
    at_once: str | None = None


@contextmanager
def _stop_on_signals() -> Iterator[_StopRequest]:
    """Handle SIGTERM and Ctrl-C in the block: the current step is finished and saved first. If a worker dies during that step,
    the run stops with the last checkpoint."""
    stop = _StopRequest()

    def note(number: int, _frame: object) -> None:
        if stop.at_once is not None:
            raise Stopped(stop.at_once)
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        log_line("stop requested: finishing this step and writing a checkpoint (repeat to stop immediately)")

    with ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(signal.signal, number, signal.signal(number, note))
        try:
            yield stop
        except ActorLost as error:
            if not stop.requested:
                raise
            raise Stopped(f"stopped at the last checkpoint ({error}): start again to continue") from error
