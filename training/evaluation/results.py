"""The result of one job: a folder with samples, problems, metrics, a page, and metadata for a model card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tasks.benchmarks.base import HubData
from tasks.evaluate_settings import Prices
from tasks.llm.ledger import Ledger
from tasks.reports.evaluation_report import (
    PAGE,
    EvaluationReport,
    ShownProblem,
    ShownSample,
    render_evaluation,
)
from tasks.storage.disk import whole_folder
from tasks.storage.model_index import MODEL_INDEX, index_result, model_index
from tasks.storage.tables import write_rows
from training.evaluation.backends import Raw, from_ledger
from training.evaluation.contamination import Contamination, Training
from training.evaluation.generation import Samples
from training.evaluation.grading import INVALID, NO_ANSWER, Answers, Grade, GradingPool, cluster_labels
from training.evaluation.jobs import Job, Place
from training.evaluation.scores import lengths, main_name, scores

SAMPLES, PROBLEMS, METRICS, COST = "samples.parquet", "problems.parquet", "metrics.json", "cost.json"
OUTPUTS = "model_outputs.json"
TRUNCATED = ("length", "too_long")
SHOWN_DISAGREEMENTS = 200
LOOKUP = 512
Clusters = Callable[[list[Answers]], list[list[int]]]
"""Returns the cluster of each answer, for the answers to several problems (`grading.cluster_labels`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One sample. `correct` and `math_verify` are None where nothing is graded; `cluster` is the number of its answer's cluster
    among the problem's, -1 without an answer. `finish_reason`: stop, length, prompt_too_long, control_token or error."""

    problem_id: str
    seed: int
    index: int
    text: str
    answer: str | None
    correct: bool | None
    math_verify: bool | None
    cluster: int
    tokens: int
    prompt_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemRow:
    """One problem as it was asked. `contaminated`: a training row descends from it or overlaps with it; None if unknown."""

    id: str
    text: str
    answer: str | None
    group: str
    contaminated: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """All samples of a job as rows, in the order of `Job.places`."""

    job: Job
    rows: tuple[SampleRow, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Problems, seeds, samples."""
        return len(self.job.items), len(self.job.protocol.seeds), self.job.protocol.samples


def collect(samples: Samples, ledger: Ledger, pool: GradingPool) -> Collected:
    """Wait for the grades, cluster the answers of each problem, and return the rows."""
    places = list(samples.keys)
    raws = _raws(samples, places, ledger)
    grades = [samples.grade(place) if place in samples.grades else NO_ANSWER for place in places]

    def clusters(jobs: list[Answers]) -> list[list[int]]:
        futures = [pool.submit(cluster_labels, jobs[start : start + 8]) for start in range(0, len(jobs), 8)]
        return [labels for future in futures for labels in future.result()]

    return collected(samples.job, raws, grades, clusters)


def collected(job: Job, raws: Sequence[Raw], grades: Sequence[Grade], clusters: Clusters) -> Collected:
    """Cluster the answers of each problem, and return the samples as rows. `raws`, `grades`: in the order of `Job.places`."""
    each = len(job.protocol.seeds) * job.protocol.samples
    groups = [grades[start : start + each] for start in range(0, len(grades), each)]
    labels = [label for found in _labels(job, groups, clusters) for label in found]
    graded = job.benchmark.answer != "text"
    return Collected(
        job=job,
        rows=tuple(
            SampleRow(
                problem_id=job.items[place.item].id, seed=place.seed, index=place.index, text=raw.text if raw.generated else "",
                answer=grade.answer, correct=grade.correct if graded else None,
                math_verify=(grade.math_verify or False) if job.benchmark.answer == "math" else None,
                cluster=label, tokens=raw.tokens, prompt_tokens=raw.prompt_tokens, finish_reason=raw.finish_reason,
            )
            for place, raw, grade, label in zip(job.places(), raws, grades, labels, strict=True)
        ),
    )  # fmt: skip


def _raws(samples: Samples, places: Sequence[Place], ledger: Ledger) -> list[Raw]:
    found: list[Raw] = []
    for start in range(0, len(places), LOOKUP):
        part = places[start : start + LOOKUP]
        stored = ledger.get_many([samples.keys[place] for place in part if place not in samples.failures])
        for place in part:
            raw = samples.failures.get(place) or from_ledger(stored.get(samples.keys[place]))
            assert raw is not None, "a sample was generated and is not in the ledger"
            found.append(raw)
    return found


def _labels(job: Job, groups: Sequence[Sequence[Grade]], clusters: Clusters) -> list[list[int]]:
    """Return the clusters of the answers of each problem; a single sample needs no comparison."""
    if job.benchmark.answer == "text" or all(len(group) == 1 for group in groups):
        return [[INVALID if grade.answer is None else 0 for grade in group] for group in groups]
    return clusters([([grade.answer for grade in group], job.benchmark.answer) for group in groups])


# --- numbers -----------------------------------------------------------------------------------------------------


def metrics(
    found: Collected, described: dict[str, Any], training: Training | None, overlap: Contamination | None
) -> dict[str, Any]:
    """Return everything that `metrics.json` has; the same samples give the same numbers. `described`: the model
    (`Model.described`)."""
    job, rows = found.job, found.rows
    reasons = Counter(row.finish_reason for row in rows)
    generated = [
        row.tokens for row in rows if row.finish_reason not in ("prompt_too_long", "control_token", "error")
    ]
    graded = job.benchmark.answer != "text"
    return {
        "fingerprint": job.fingerprint(described),
        "model": described,
        "benchmark": {
            "name": job.benchmark.name, "title": job.benchmark.title, "data": job.data.digest, "answer": job.benchmark.answer,
            "licence": job.benchmark.licence, "problems": len(job.items), "of": len(job.data.items),
            "left_out": dict(job.data.rejected), "lineage": job.benchmark.lineage,
        },
        "protocol": job.described(),
        "counts": {
            "samples": len(rows), "truncated": sum(reasons[reason] for reason in TRUNCATED),
            "unparsed": sum(row.answer is None for row in rows) if graded else 0,
            **{name: reasons[name] for name in ("prompt_too_long", "control_token", "error")},
        },
        "lengths": lengths(generated),
        **(_graded(found, training, overlap) if graded else {"scores": {}}),
    }  # fmt: skip


def _graded(found: Collected, training: Training | None, overlap: Contamination | None) -> dict[str, Any]:
    rows = found.rows
    correct = np.array([row.correct for row in rows], dtype=bool).reshape(found.shape)
    labels = np.array([row.cluster for row in rows], dtype=np.int64).reshape(found.shape)
    right = [row.tokens for row in rows if row.correct]
    wrong = [row.tokens for row in rows if not row.correct and row.tokens]
    result: dict[str, Any] = {
        "scores": scores(correct, labels), "main": main_name(found.job.protocol.samples),
        "lengths_correct": lengths(right), "lengths_wrong": lengths(wrong),
    }  # fmt: skip
    if found.job.benchmark.answer == "math":
        result["math_verify"] = _second(found)
    result["contamination"] = _contamination(correct, labels, training, overlap)
    return result


def _second(found: Collected) -> dict[str, Any]:
    """Return Math-Verify's score beside ours, and the pairs of answers on which they disagree."""
    samples = found.shape[1] * found.shape[2]
    pairs = Counter(
        (
            row.answer or "",
            found.job.items[number // samples].answer or "",
            bool(row.correct),
            bool(row.math_verify),
        )
        for number, row in enumerate(found.rows)
        if row.correct != row.math_verify
    )
    listed = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:SHOWN_DISAGREEMENTS]
    return {
        "score": float(np.mean([bool(row.math_verify) for row in found.rows])),
        "ours": float(np.mean([bool(row.correct) for row in found.rows])),
        "disagreements": sum(pairs.values()),
        "pairs": [
            {
                "answer": answer[:200],
                "gold": gold[:200],
                "ours": ours,
                "math_verify": theirs,
                "samples": count,
            }
            for (answer, gold, ours, theirs), count in listed
        ],
    }


def _contamination(
    correct: Any, labels: Any, training: Training | None, overlap: Contamination | None
) -> dict[str, Any] | None:
    """Return how many problems the training rows descend from or overlap with, and the scores without them."""
    if training is None or overlap is None:
        return None
    clean = [number for number in range(len(correct)) if number not in overlap.problems]
    return {
        "dataset": training.fingerprint, "training_rows": len(training.rows), "problems": len(overlap.problems),
        "descends": len(overlap.descends), "overlaps": len(overlap.overlaps), "flagged_rows": overlap.flagged,
        "scores_without": scores(correct[clean], labels[clean]) if clean else None,
    }  # fmt: skip


def cost(found: Collected, prices: Prices, seconds: float) -> dict[str, Any]:
    """Return wall-clock seconds of generating (over all starts), tokens, and their price."""
    output, prompt = (sum(getattr(row, name) for row in found.rows) for name in ("tokens", "prompt_tokens"))
    return {
        "seconds": round(seconds, 3), "prompt_tokens": prompt, "output_tokens": output,
        "tokens_per_second": round(output / seconds, 1) if seconds else None,
        "price": (prompt * prices.prompt + output * prices.output) / 1e6,
    }  # fmt: skip


# --- files -------------------------------------------------------------------------------------------------------


def write_result(
    folder: Path,
    found: Collected,
    numbers: dict[str, Any],
    spent: dict[str, Any],
    overlap: Contamination | None,
) -> None:
    """Write the folder, whole or not at all, replacing an earlier one."""
    job = found.job
    problems = [
        ProblemRow(
            id=item.id, text=item.text, answer=item.answer, group=item.group,
            contaminated=None if overlap is None else number in overlap.problems,
        )
        for number, item in enumerate(job.items)
    ]  # fmt: skip
    with whole_folder(folder, replace=True) as place:
        write_rows(place / SAMPLES, SampleRow, found.rows)
        write_rows(place / PROBLEMS, ProblemRow, problems)
        _write_json(place / METRICS, numbers)
        _write_json(place / COST, spent)
        (place / PAGE).write_text(render_evaluation(report(found, numbers, problems)), encoding="utf-8")
        if job.benchmark.answer == "text":
            _write_json(place / OUTPUTS, model_outputs(found, numbers["model"]["name"]))
        else:
            index = model_index(numbers["model"]["name"], [index_of(job, numbers)])
            text = yaml.safe_dump(index, sort_keys=False, allow_unicode=True)
            (place / MODEL_INDEX).write_text(text, encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def model_outputs(found: Collected, generator: str) -> list[dict[str, str]]:
    """Return the rows of the file that `alpaca_eval --model_outputs` reads: the first sample of each instruction."""
    samples = found.shape[1] * found.shape[2]
    return [
        {
            "instruction": item.text,
            "output": found.rows[number * samples].text,
            "generator": generator,
            **item.facts,
        }
        for number, item in enumerate(found.job.items)
    ]


def index_of(job: Job, numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the result for the metadata `model-index` of a model card."""
    dataset: dict[str, Any] = {"name": job.benchmark.title, "type": job.benchmark.name}
    if isinstance(job.benchmark.data, HubData):
        part = job.benchmark.data.parts[0]
        dataset = {
            "name": job.benchmark.title,
            "type": part.hub_id,
            "config": part.config or "default",
            "split": part.split,
        }
    dataset["revision"] = job.data.digest
    scores_of = {name: one["value"] for name, one in numbers["scores"].items() if name != "seeds"}
    return index_result(dataset, scores_of, job.folder_name)


def report(found: Collected, numbers: dict[str, Any], problems: Sequence[ProblemRow]) -> EvaluationReport:
    """Return the input of the page."""
    samples = found.shape[1] * found.shape[2]
    return EvaluationReport(
        numbers=numbers,
        problems=tuple(
            ShownProblem(
                id=problem.id, text=problem.text, answer=problem.answer, contaminated=bool(problem.contaminated),
                samples=tuple(
                    ShownSample(
                        text=row.text, answer=row.answer, correct=row.correct, math_verify=row.math_verify, tokens=row.tokens,
                        truncated=row.finish_reason in TRUNCATED, finish_reason=row.finish_reason,
                    )
                    for row in found.rows[number * samples : (number + 1) * samples]
                ),
            )
            for number, problem in enumerate(problems)
        ),
    )  # fmt: skip
