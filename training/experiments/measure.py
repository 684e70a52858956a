"""Measure one cell: train or evaluate, and read the result from what the run wrote."""

from __future__ import annotations

import hashlib
import math
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.identity import canonical_json, fingerprint
from tasks.llm.model_identity import model_identity
from tasks.processes.machine import available_cores, engine_device
from tasks.runtime.training_run import held_out, write_held_out
from tasks.storage.checksums import read_sealed
from tasks.storage.disk import atomic_write
from tasks.storage.metrics import read_metrics
from training.config import RunConfig, run_folder
from training.console import log_line
from training.data.model_files import ModelFiles
from training.evaluation.held_out import HeldOut
from training.evaluation.history import Evaluation
from training.evaluation.stored import evaluation_file, stored_evaluations
from training.evaluation.student import evaluate
from training.experiments.cell import CELL_VERSION, VERSIONS, Cell
from training.experiments.stored import CellResult, Point, counts
from training.loop import run_prepared
from training.plan import RunPlan
from training.preflight.check import Prepared, prepare
from training.preflight.data_checks import uses
from training.preflight.disk import RESULT
from training.preflight.sampling import evaluation_sampling
from training.stopping import Spent
from training.worker_set import SharedWorkers, rollout_engine_settings

__all__ = ["Job", "checked", "measure"]

LAST_STEPS = 5
"""Steps that the mean of a metric is taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A checked cell: the settings of its run, what the run needs, and the fingerprint of what is measured."""

    label: str
    cell: Cell
    run: RunConfig
    plan: RunPlan
    fingerprint: str
    steps: int

    @property
    def place(self) -> tuple[Any, ...]:
        """Cells that differ in this cannot share workers."""
        where = self.run.placement
        return where.kind, where.students, where.engines

    @property
    def engines(self) -> tuple[Any, ...]:
        """Cells that differ in this cannot share rollout engines."""
        run, teacher = self.run, self.run.teacher
        of_teacher = self.cell.baseline == "teacher" and teacher is not None
        model = teacher.model if of_teacher and teacher is not None else run.student.model
        return *self.place, model, run.context_tokens, run.rollout_dtype


def checked(label: str, cell: Cell, work: Path) -> Job:
    """Check a cell, whose runs are folders of `work`/profile. Raises `UserError` with one line for each problem."""
    run, settings, dataset = cell.run(work / cell.profile)
    if settings.held_out and run.evaluation is not None:
        problems = held_out(settings, dataset)
        name = hashlib.sha256(canonical_json([asdict(one) for one in problems]).encode("ascii")).hexdigest()
        path = work / cell.profile / f"held_out-{name[:16]}.jsonl"  # other cells may have other problems
        write_held_out(path, problems)
        evaluation = run.evaluation.model_copy(update={"problems": path})
        run = run.model_copy(update={"evaluation": evaluation})
    prepared = prepare(run)
    counts([[False] * held_out_of(prepared).settings.samples])
    steps = 0 if cell.baseline is not None else prepared.schedule.steps
    return Job(
        label=label,
        cell=cell,
        run=run,
        plan=prepared.plan,
        fingerprint=_fingerprint(cell, prepared),
        steps=steps,
    )


def measure(job: Job, workers: SharedWorkers, command: str) -> CellResult:
    """Train or evaluate, and return the result. Raises `UserError` if it fails, and `training.loop.Stopped` on request."""
    prepared = prepare(job.run)
    if _fingerprint(job.cell, prepared) != job.fingerprint:
        raise UserError("the dataset, a model or the held-out problems changed since the start: start again")
    if job.cell.baseline is None:
        folder = run_folder(job.run.output, prepared.fingerprint)
        with _evaluated_once(prepared, folder):
            run_prepared(prepared, workers.start)
        return _of_training(job, prepared, folder, command)
    settings = rollout_engine_settings(prepared, workers.placement)
    settings = replace(settings, model=_evaluated(job.cell, prepared).folder)
    with workers.engines(settings, log_line) as engines:
        found = evaluate(
            engines, held_out_of(prepared), f"of the {job.cell.baseline}", evaluation_sampling(prepared)
        )
    only = Evaluation(step=0, weights="", grades=found.grades, values=found.values())
    return _result(job, prepared, command, curve=(point_of(only, ()),))


@contextmanager
def _evaluated_once(prepared: Prepared, folder: Path) -> Iterator[None]:
    """Let the run in `folder` find the evaluation of its start by an earlier cell, and keep its own for later ones. A run uses it
    only if it is of the same weights. Cells whose evaluations compare the student with a teacher share theirs only with those of
    the same teacher."""
    compared = prepared.plan.evaluation_pass(prepared.shared_vocab) is not None
    teachers = [_identity(one) for one in prepared.teachers if compared]
    dtypes = [one.dtype for one in prepared.plan.teachers if compared]
    computed = {"dtype": prepared.run.rollout_dtype, "entropies": prepared.run.trainer.dtype}
    identity = fingerprint(
        stage="start",
        version=CELL_VERSION,
        settings=_sampling(prepared) | computed,
        models=(_identity(prepared.student), *teachers),
        inputs=(held_out_of(prepared).digest, *dtypes),
    )
    known, own = folder.parent / f"start-{identity[:16]}.json", evaluation_file(folder, 0)
    if known.is_file() and not own.exists():
        atomic_write(own, known.read_text(encoding="utf-8"))
    yield
    atomic_write(known, own.read_text(encoding="utf-8"))


def _sampling(prepared: Prepared) -> dict[str, Any]:
    return {**asdict(evaluation_sampling(prepared)), "samples": held_out_of(prepared).settings.samples}


def held_out_of(prepared: Prepared) -> HeldOut:
    """Return the held-out problems. Raises `UserError` without any."""
    if prepared.held_out is None:
        raise UserError(
            "there are no held-out problems: set distill.held_out in the profile, or evaluation.problems in the experiment"
        )
    return prepared.held_out


def _evaluated(cell: Cell, prepared: Prepared) -> ModelFiles:
    """Return the model that a baseline evaluates. Its prompts are the student's: a teacher has the same tokens."""
    return prepared.student if cell.baseline == "student" else prepared.teacher_files


def _fingerprint(cell: Cell, prepared: Prepared) -> str:
    """Return the identity of what a cell measures, with its models, data and problems."""
    if cell.baseline is None:
        return prepared.fingerprint
    return fingerprint(
        stage="baseline",
        version=CELL_VERSION,
        settings=_sampling(prepared),
        models=(_identity(_evaluated(cell, prepared)),),
        inputs=(held_out_of(prepared).digest,),
    )


def _identity(model: ModelFiles) -> str:
    return model_identity(str(model.folder), None, PROJECT_ROOT)


# --- results -----------------------------------------------------------------------------------------------------


def _of_training(job: Job, prepared: Prepared, folder: Path, command: str) -> CellResult:
    """Return the result of a finished training from its folder."""
    rows, evaluations = read_metrics(folder), stored_evaluations(folder)
    ended = read_sealed(folder / RESULT, "run the cell again")["ended"]["by"]
    tokens = int(sum(row["response_tokens"] for row in rows))
    totals = {
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "generated_tokens": tokens if prepared.plan.samples else 0,
        "trained_tokens": tokens,
        "steps": len(rows),
        "peak_memory_gb": {"student": round(max(row["student_memory_gb"] for row in rows), 3)},
    }
    curve = tuple(point_of(one, rows) for one in evaluations)
    return _result(job, prepared, command, curve=curve, metrics=last_means(rows), totals=totals, ended=ended)


def point_of(evaluation: Evaluation, rows: Sequence[Mapping[str, float]]) -> Point:
    """Return an evaluation as a point of the curve, with what the steps until then took."""
    spent = Spent.by([row for row in rows if row["step"] <= evaluation.step])
    return Point(
        step=evaluation.step,
        tokens=int(spent.tokens),
        seconds=round(spent.seconds, 1),
        correct=counts(evaluation.grades),
        entropy_mean=_digits(evaluation.values.get("entropy_mean")),
        high_entropy_share=_digits(evaluation.values.get("high_entropy_share")),
        forward_kl_high_entropy=_digits(evaluation.values.get("forward_kl_high_entropy")),
        truncated=_digits(evaluation.values.get("truncated_share")),
        response_tokens_mean=_digits(evaluation.values.get("response_tokens_mean")),
    )


def _digits(value: float | None) -> float | None:
    """Return a value with six significant digits."""
    return None if value is None else float(f"{value:.6g}")


def last_means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the last steps that have it, with six significant digits."""
    last = rows[-LAST_STEPS:]
    names = dict.fromkeys(name for row in last for name in row if name != "step")
    means = {
        name: math.fsum(found) / len(found)
        for name in names
        if (found := [r[name] for r in last if name in r])
    }
    return {name: float(f"{mean:.6g}") for name, mean in means.items() if math.isfinite(mean)}


def _result(job: Job, prepared: Prepared, command: str, **measured: Any) -> CellResult:
    held_out, sampling = held_out_of(prepared), evaluation_sampling(prepared)
    return CellResult(
        key=job.cell.key,
        fingerprint=job.fingerprint,
        cell=asdict(job.cell),
        dataset=_dataset(prepared),
        versions=_versions(job),
        commit=_commit(),
        command=command,
        machine=f"{engine_device()}, {available_cores()} cores",
        evaluation={
            "problems": len(held_out.ids),
            "problems_digest": held_out.digest[:16],
            "samples": held_out.settings.samples,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        },
        **measured,
    )


def _versions(job: Job) -> dict[str, int]:
    """Return the versions that the key of a cell depends on."""
    trained = {} if job.cell.baseline is not None else {"algorithm": job.plan.algorithm.version}
    return {**VERSIONS, **trained}


def _dataset(prepared: Prepared) -> dict[str, Any]:
    """Return what the run trains on, and where the labels and solutions that it uses come from."""
    data, references = prepared.dataset, prepared.references
    used = () if references is None else uses(prepared.plan)
    sources = {
        need: ", ".join(f"{count} {name}" for name, count in references.sources(need).items())
        for need in used
        if references is not None
    }
    return {
        "name": data.name,
        "digest": data.fingerprint[:16],
        "rows": len(prepared.rows),
        "labels": sources.get("label"),
        "solutions": sources.get("solution"),
        "student": _identity(prepared.student),
        "teachers": [_identity(one) for one in prepared.teachers],
    }


@cache
def _commit() -> str | None:
    """Return the commit of the project, None outside a repository."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
