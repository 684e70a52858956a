"""Evaluate one model on benchmarks: read everything, generate what is missing, grade, and write one folder per result."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tasks.config import PROJECT_ROOT
from tasks.evaluate_settings import EvaluateSettings
from tasks.llm.ledger import Ledger
from tasks.processes.machine import available_cores
from tasks.text import counted
from training.evaluation.backends import backends
from training.evaluation.contamination import Contamination, Training, contamination, training_of
from training.evaluation.generation import Clock, Run, Samples
from training.evaluation.grading import GradingPool
from training.evaluation.jobs import Job, open_jobs, streams
from training.evaluation.models import Model, open_evaluated
from training.evaluation.results import METRICS, collect, cost, metrics, write_result

GRADERS = 4
"""Largest number of grading processes, unless the settings say otherwise."""
LEDGER, TIMES, MERGED = "ledger.sqlite", "logs/generation.jsonl", "merged"
_NAME = re.compile(r"[^A-Za-z0-9._-]+")
Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The folder of a result, and the content of its metrics.json."""

    folder: Path
    numbers: dict[str, Any]


def evaluate(settings: EvaluateSettings, log: Log) -> list[Outcome]:
    """Evaluate the model of the settings and return the results in the order of the settings.

    Finished results are reused; generated samples are in the ledger of `out`, so a killed evaluation continues with the missing
    ones and gives the same bytes. Raises `UserError` with one sentence for settings, data or a model that cannot be used.
    """
    out = PROJECT_ROOT / settings.out.expanduser()
    jobs = open_jobs(settings)
    for job in {job.benchmark.name: job for job in jobs}.values():
        left_out = "".join(f", left out: {count:,} ({reason})" for reason, count in job.data.rejected.items())
        log(f"{job.benchmark.name}: {counted(len(job.items), 'problem')} of {job.data.origin}{left_out}")
    model = open_evaluated(settings, out / MERGED, log)
    for job in jobs:
        model.check(job.protocol)
    training = training_of(model.folder, settings.trained_on)
    folders = {id(job): result_folder(out, model, job) for job in jobs}
    missing = [job for job in jobs if finished(folders[id(job)], job, model, training) is None]
    if missing:
        _generate(missing, model, training, out, folders, log)
    return [_outcome(folders[id(job)], job, model, training, log) for job in jobs]


def _generate(
    jobs: Sequence[Job],
    model: Model,
    training: Training | None,
    out: Path,
    folders: dict[int, Path],
    log: Log,
) -> None:
    """Generate and write the results of jobs, stream by stream."""
    workers = model.settings.cpu_workers or min(GRADERS, max(1, available_cores() // 2))
    with Ledger(out / LEDGER) as ledger, GradingPool(workers) as pool, backends(model, log) as backend:
        for thinking, sampling, group in streams(jobs):
            run = Run(model, ledger, pool, Clock(out / TIMES), log)
            for samples in run.stream(group, sampling, partial(backend, thinking)):
                write(folders[id(samples.job)], samples, run, training)


def write(folder: Path, samples: Samples, run: Run, training: Training | None) -> None:
    """Write the result of a job whose samples are all there."""
    job = samples.job
    run.ledger.flush()
    found = collect(samples, run.ledger, run.pool)
    overlap = overlap_of(job, training)
    numbers = metrics(found, run.model.described(job.protocol.thinking), training, overlap)
    spent = cost(found, run.model.settings.prices, run.clock.seconds(samples.fingerprint))
    write_result(folder, found, numbers, spent, overlap)


def overlap_of(job: Job, training: Training | None) -> Contamination | None:
    """Return which problems the training rows overlap with, or None if these are unknown."""
    return None if training is None else contamination(job.benchmark.name, job.items, training)


def result_folder(out: Path, model: Model, job: Job) -> Path:
    """Return the folder of a result: model, benchmark, protocol."""
    name = _NAME.sub("-", model.source.rstrip("/")).strip("-.") or "model"
    digest = _NAME.sub("-", model.identity.rpartition(":")[2] if model.folder is not None else "endpoint")[:8]
    return out / f"{name[-60:]}-{digest}" / job.benchmark.name / job.folder_name


def finished(folder: Path, job: Job, model: Model, training: Training | None) -> dict[str, Any] | None:
    """Return the numbers of a result that is complete: of the same settings and training rows, and without failed requests."""
    try:
        found = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        known = None if found.get("contamination") is None else found["contamination"]["dataset"]
        wanted = job.fingerprint(model.described(job.protocol.thinking))
        same = found["fingerprint"] == wanted and found["counts"]["error"] == 0
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    expected = None if training is None or job.benchmark.answer == "text" else training.fingerprint
    return found if same and known == expected else None


def _outcome(folder: Path, job: Job, model: Model, training: Training | None, log: Log) -> Outcome:
    numbers = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    log(summary(job, numbers))
    log(f"{job.name}: result in {folder}")
    return Outcome(folder=folder, numbers=numbers)


def summary(job: Job, numbers: dict[str, Any]) -> str:
    """Return one line about a result."""
    counts = numbers["counts"]
    parts = [f"{counted(len(job.items), 'problem')}"]
    if numbers["scores"]:
        main = numbers["scores"][numbers["main"]]
        parts.insert(0, f"{numbers['main']} {main['value']:.2%} [{main['low']:.2%}, {main['high']:.2%}]")
    if "math_verify" in numbers:
        second = numbers["math_verify"]
        parts.append(
            f"Math-Verify {second['score']:.2%} ({counted(second['disagreements'], 'disagreement')})"
        )
    names = {
        "truncated": "truncated", "unparsed": "without an answer", "prompt_too_long": "with a prompt that does not fit",
        "control_token": "with a control token", "error": "failed: run again to repeat them",
    }  # fmt: skip
    parts += [f"{counts[key]:,} {words}" for key, words in names.items() if counts[key]]
    if numbers.get("contamination"):
        parts.append(f"{counted(numbers['contamination']['problems'], 'contaminated problem')}")
    return f"{job.name}: {', '.join(parts)}"
