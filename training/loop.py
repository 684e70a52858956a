"""The training loop: generate, score, update, sync, log, checkpoint. It depends on the plan of the run, not on its
algorithm's name."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError
from tasks.processes.timeline import FILE, Timeline
from tasks.storage.locks import alone
from training.batch import RolloutBatch, generate_batch, micro_batches
from training.config import RunConfig, run_folder
from training.console import log_line, phase, show_table
from training.data.rows import columns
from training.evaluation.held_out import evaluate
from training.export import RunResult, export_run, finished, record_latest
from training.loss_inputs import sequences_of
from training.metrics import step_metrics
from training.preflight.check import Prepared, prepare
from training.preflight.memory import memory_table
from training.preflight.sampling import evaluation_sampling
from training.preflight.self_tests import self_test
from training.rollouts.engine import Generation
from training.rollouts.saved import read_generations
from training.run_log import RunLog, RunTimer
from training.student.checkpoints import latest, read_record
from training.student.group import Update
from training.weight_sync.sync import check_mismatch, check_versions
from training.worker_set import Workers, start_workers
from training.workers.actors import ActorLost

__all__ = ["Stopped", "run"]

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
    prepared = prepare(config)
    folder = run_folder(config.output, prepared.fingerprint)
    with alone(folder / LOCK, "a distillation run", wait_s=LOCK_WAIT_S, on_wait=log_line):
        done = finished(folder, prepared.fingerprint)
        if done is None:
            show_table(memory_table(prepared.memory))
            done = _train_with_restarts(prepared, folder)
        else:
            log_line(f"this run is already finished: {folder}")
        record_latest(folder)
    return done


def _train_with_restarts(prepared: Prepared, folder: Path) -> RunResult:
    """Train, restarting from the last checkpoint if a worker dies."""
    timer = RunTimer(folder)
    for deaths in range(MAX_RESTARTS + 1):
        try:
            with _started(prepared, Timeline(folder / FILE)) as workers:
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
def _started(prepared: Prepared, timeline: Timeline) -> Iterator[Workers]:
    """Start all workers, and end them when the block ends."""
    with ExitStack() as stack:
        with _phase(timeline, "starting the workers"):
            workers = stack.enter_context(start_workers(prepared, log_line))
        yield workers


def _train(workers: Workers, prepared: Prepared, folder: Path, timer: RunTimer) -> RunResult:
    """Run the remaining steps, with an evaluation before the first step and after the last one. The last step is saved too, so
    that evaluation and export can be repeated without training."""
    config, total = prepared.run, prepared.schedule.steps
    held_out, timeline = prepared.held_out, Timeline(folder / FILE)
    with _phase(timeline, "loading the weights and checking the workers"):
        first, record, saved = _resume(workers, prepared, folder)
        workers.students.sync(workers.engines, first)
        if config.self_tests:
            self_test(workers, prepared, first)
    sampling = evaluation_sampling(prepared)
    with _phase(timeline, "evaluating the student before the training"):
        before = record["before"] if first else evaluate(workers, held_out, "before", sampling)
    kept = {"fingerprint": prepared.fingerprint, "before": before}
    timer.save()
    with _stop_on_signals() as stop:
        with RunLog(folder, step=first, steps=total) as run_log, timeline.phase("training", "steps"):
            for step, upcoming in _steps(workers, prepared, run_log, first, saved):
                timer.save()
                if step % config.checkpoints.every == 0 or step == total or stop.requested:
                    workers.students.save(
                        folder / "checkpoints", step, kept, keep=config.checkpoints.keep, rollouts=upcoming
                    )
                if stop.requested:
                    raise Stopped(
                        f"stopped after step {step} of {total}, with a checkpoint: start again to continue"
                    )
        stop.at_once = (
            "stopped after the last step, with a checkpoint: start again to evaluate and export the student"
        )
        with _phase(timeline, "evaluating and exporting the student"):
            after = evaluate(workers, held_out, "after", sampling)
            return export_run(workers, prepared, folder, timer, before=before, after=after)


def _steps(
    workers: Workers,
    prepared: Prepared,
    run_log: RunLog,
    first: int,
    saved: Sequence[Generation] = (),
) -> Iterator[tuple[int, Sequence[Generation]]]:
    """Generate > score > update > sync > log. Yields the number of completed steps and the rollouts of the next step, if they
    exist already. `saved`: the rollouts of step `first`, if a checkpoint has them.

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
            workers.students.sync(workers.engines, step + 1)
            ended = time.perf_counter()
            row = step_metrics(batch, updates, staleness=staleness, sync=ended - waited, wall=ended - began)
            run_log.write(row)
            if staleness == 0 and "mismatch_mean" in row:
                check_mismatch(row["mismatch_mean"], version=step)
            yield step + 1, ready.rollouts if ready and prepared.plan.samples else ()


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


def _resume(
    workers: Workers, prepared: Prepared, folder: Path
) -> tuple[int, Mapping[str, Any], tuple[Generation, ...]]:
    """Load the last checkpoint; return its number of steps, its record, and the rollouts of the next step that it contains.

    Raises `UserError` if the checkpoint belongs to a run with another fingerprint.
    """
    checkpoint = latest(folder / "checkpoints", log_line)
    if checkpoint is None:
        return 0, {}, ()
    record = read_record(checkpoint)
    if record.get("fingerprint") != prepared.fingerprint:
        raise UserError(
            f"{folder} contains checkpoints of a run with other settings, data or models: delete it, or choose another output"
            " folder"
        )
    updates = workers.students.load(checkpoint)
    step = -(-updates // prepared.schedule.updates_per_batch)
    log_line(f"continuing after step {step}")
    return step, record, read_generations(checkpoint)


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
