"""The export of a finished run: the student as a Hugging Face folder with a model card, metrics, curves and cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from prompts import load_prompt
from tasks.config import PROJECT_ROOT
from tasks.llm.model_identity import model_identity
from tasks.storage.artifacts import versions
from tasks.storage.cards import Markdown, render_card
from tasks.storage.checksums import sealed, unsealed
from tasks.storage.disk import atomic_write
from tasks.storage.metrics import read_metrics
from tasks.storage.model_index import index_result, model_index
from tasks.text import counted
from training.algorithms.base import Algorithm
from training.console import log_line
from training.data.model_files import PROMPT
from training.evaluation.history import described, estimates
from training.evaluation.scores import main_name
from training.metrics import phase_seconds
from training.preflight.check import Prepared
from training.preflight.data_checks import uses
from training.preflight.disk import RESULT
from training.preflight.memory import placement_of
from training.progress import RunState, TrainingRun
from training.run_log import RunTimer

__all__ = ["RESULT", "RunResult", "export_run", "finished", "record_latest"]

LATEST = "latest.json"
STUDENT = "student"
PANELS = (
    ("loss", "loss (nats)"),
    ("gradient_norm", "gradient norm"),
    ("entropy", "student's entropy (nats)"),
    ("response_tokens_mean", "tokens per response"),
    ("mismatch_mean", "trainer/engine mismatch (nats)"),
    ("tokens_per_second", "tokens per second"),
    ("held_out_accuracy", "held-out pass@1"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The folder of the trained student, and the content of `result.json`."""

    student: Path
    result: Mapping[str, Any]


def finished(folder: Path, fingerprint: str) -> RunResult | None:
    """Return the outcome of the run with this fingerprint if it is complete, else None."""
    try:
        result = unsealed((folder / RESULT).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if result.get("fingerprint") != fingerprint or not (folder / STUDENT / "config.json").is_file():
        return None
    return RunResult(student=folder / STUDENT, result=result)


def record_latest(folder: Path) -> None:
    """Record a finished run as the latest, in a file next to its folder."""
    atomic_write(folder.parent / LATEST, json.dumps({"run": folder.name}) + "\n")


def export_run(run: TrainingRun, state: RunState, timer: RunTimer, *, exported: int) -> RunResult:
    """Export the student, which is that after step `exported`, and write all other files; `result.json` is written last and marks
    the run as finished."""
    prepared, folder = run.prepared, run.folder
    lost = run.workers.students.export(folder / STUDENT)
    rows = read_metrics(folder)
    before, after = state.evaluation(0), state.evaluation(exported)
    held_out = None if before is None or after is None else estimates(before.grades, after.grades)
    result = {
        "fingerprint": prepared.fingerprint,
        "algorithm": prepared.run.algorithm.name,
        "method": _method(prepared),
        "prompts": min(prepared.schedule.total_prompts, len(rows) * prepared.schedule.prompts_per_step),
        "steps": len(rows),
        "ended": {"by": state.ended, "step": state.step, "of": prepared.schedule.steps},
        "exported": _exported(run, state, exported),
        "evaluations": described(state.evaluations),
        "student": {"from": _identity(prepared.student.folder), "to": _identity(folder / STUDENT)},
        "teacher": _identity(prepared.teachers[0].folder) if len(prepared.teachers) == 1 else None,
        **_teachers(prepared),
        **_dataset(prepared),
        "references": _reference_sources(prepared),
        "left_out": prepared.left_out,
        "held_out": held_out,
        **({} if lost is None else {"lost_by_merging": lost}),
        "cost": cost(rows, prepared, *timer.total()),
        "facts": run.workers.facts,
        "settings": prepared.plan.identity(),
        "versions": versions(),
    }
    write_metrics(folder / "metrics.parquet", rows)
    atomic_write(folder / "cost.json", json.dumps(result["cost"], indent=2) + "\n")
    draw_curves(folder / "curves.png", rows)
    atomic_write(folder / STUDENT / "README.md", model_card(result))
    atomic_write(folder / RESULT, _as_json(result))
    _log_gain(held_out)
    if exported != state.step:
        log_line(f"exported the best student, after step {exported} of {state.step}")
    log_line(f"student: {folder / STUDENT}")
    return RunResult(student=folder / STUDENT, result=result)


def _exported(run: TrainingRun, state: RunState, step: int) -> dict[str, Any]:
    """Return the step of the exported student, and if it is the best one, by what and with which value."""
    best, settings = run.best(state), run.evaluation
    if best is None or settings is None:
        return {"step": step}
    return {"step": step, "best_by": settings.best_by, "value": best.value(settings.best_by)}


def _log_gain(held_out: Mapping[str, Any] | None) -> None:
    if held_out is not None:
        gained = held_out["gain"]
        log_line(
            f"pass@1 {held_out['before']['value']:.1%} -> {held_out['after']['value']:.1%}, gain"
            f" {100 * gained['value']:+.1f} points [{100 * gained['low']:+.1f}, {100 * gained['high']:+.1f}]"
            f" on {counted(gained['n'], 'held-out problem')}"
        )


def _as_json(result: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(result, default=str))
    return json.dumps(sealed(plain), indent=2) + "\n"


def cost(
    rows: Sequence[Mapping[str, float]], prepared: Prepared, starts: int, spent: float
) -> dict[str, float]:
    """Return the cost of a run with `starts` starts that lasted `spent` seconds in total.

    `seconds_all` is `spent` (loading, evaluation, checkpoints and repeated steps included); `gpu_hours` is the same times the
    number of GPUs. `seconds` is the total of the completed steps, `seconds_<phase>` the work of each phase in them, and `overlap`
    the sum of the phases over `seconds`. `tokens` and `response_tokens` are totals.
    """
    placement = placement_of(prepared.plan)
    devices = 0 if placement.on_cpu else len(placement.bundles())
    seconds = sum(row["seconds"] for row in rows)
    phases = phase_seconds(rows)
    return {
        "seconds": seconds,
        **{f"seconds_{name}": spent for name, spent in phases.items()},
        "overlap": sum(phases.values()) / seconds if seconds else 1.0,
        "starts": starts,
        "seconds_all": spent,
        "gpu_hours": devices * spent / 3600,
        "response_tokens": sum(row["response_tokens"] for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
    }


def write_metrics(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the metrics as a Parquet table with one row per step."""
    sink = pa.BufferOutputStream()
    names = dict.fromkeys(name for row in rows for name in row)  # some metrics exist in some steps only
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), sink)
    atomic_write(path, sink.getvalue().to_pybytes())


def draw_curves(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Plot the metrics of `PANELS` that the run has over the steps, with the share of each phase in the title."""
    from io import BytesIO

    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    found = [panel for panel in PANELS if any(panel[0] in row for row in rows)]
    grid = figure.subplots(2, max(1, -(-len(found) // 2)), squeeze=False).flatten()
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    for axes, (name, label) in zip(grid[: len(found)], found, strict=True):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), linewidth=1.2, marker="." if len(points) < len(rows) else "")
        axes.set_title(label, fontsize=10)
        axes.grid(alpha=0.3)
    phases = phase_seconds(rows)
    work = sum(phases.values()) or 1.0
    shares = ", ".join(f"{name} {seconds / work:.0%}" for name, seconds in phases.items())
    total = sum(row["seconds"] for row in rows)
    figure.suptitle(f"{counted(len(rows), 'step')}, {total:,.0f} s (share of work: {shares})", fontsize=11)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    atomic_write(path, buffer.getvalue())


def model_card(result: Mapping[str, Any]) -> str:
    """Return the model card of the student: its models, settings, evaluation and cost, all taken from the result."""
    settings = result["settings"]
    base = " ".join(result["student"]["from"].rpartition(":")[0].split())
    name = f"{base}, trained by {result['algorithm']}"
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": ["en"],
        "model_name": name,
        "tags": ["mathematics", *_tags(result["method"]), str(result["algorithm"])],
        **model_index(name, _index_results(result)),
    }
    return render_card(
        "model.md.j2",
        front_matter=Markdown(yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=10**6)),
        name=name,
        result=result,
        settings=settings,
        held_out=result["held_out"],
        cost=result["cost"],
        prompt=Markdown(load_prompt(PROMPT).user.rstrip()),
        all_settings=Markdown(json.dumps(settings, indent=2)),
    )


def _index_results(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the evaluation of the exported student for the metadata `model-index`; nothing without one."""
    if result["held_out"] is None:
        return []
    after, score = result["held_out"]["after"], main_name(result["settings"]["evaluation"]["samples"])
    dataset = {"type": "held-out", "name": counted(after["n"], "held-out problem")}
    return [
        index_result(
            dataset,
            {score: after["value"]},
            f"temperature {result['settings']['evaluation']['temperature']:g}",
        )
    ]


def _method(prepared: Prepared) -> dict[str, Any]:
    """Return the algorithm of the run for people: its summary, formula and source, and its parts as pairs of name and value."""
    algorithm = prepared.plan.algorithm
    scorers = [
        f"{one.role}, {one.view.replace('_', ' ')} prompt: {', '.join(one.outputs)}"
        + (f" of {one.top_k}" if one.top_k else "")
        for one in algorithm.scorers
    ]
    parts = [
        ("loss terms", " + ".join(f"{term.weight:g} x {term.loss}" for term in algorithm.loss)),
        ("scores", "; ".join(scorers) or "none"),
        ("prompt weight", str(algorithm.prompt_weight)),
        *(
            (name, getattr(part, "__name__", str(part)))
            for name, part in _own_parts(algorithm)
            if part is not None
        ),
        *((f"{need}s", _counts(found)) for need, found in _reference_sources(prepared).items()),
        *([] if prepared.responses is None else [("responses", prepared.responses.source)]),
    ]
    return {
        "summary": algorithm.summary,
        "formula": algorithm.formula,
        "source": algorithm.source,
        "rollouts": algorithm.rollouts,
        "deviations": list(algorithm.deviations),
        "parts": parts,
    }


def _dataset(prepared: Prepared) -> dict[str, Any]:
    """Return the fingerprint of the dataset, what was recognised or assumed in it, and of a source its name and what identifies
    its content."""
    data = prepared.dataset
    source = {} if data.origin is None else {"source": {"name": data.name, "content": data.origin}}
    return {"dataset": data.fingerprint, "notices": list(data.notices), **source}


def _teachers(prepared: Prepared) -> dict[str, Any]:
    """Return several teachers with what they annotated, and what they taught of all rows; nothing with one."""
    routing, annotations, settings = prepared.routing, prepared.annotations, prepared.run.routing
    if routing is None or annotations is None or settings is None:
        return {}
    found = [
        {
            "name": name,
            "model": _identity(model.folder),
            "annotation": None if dataset is None else dataset.fingerprint,
            **summary,
        }
        for (name, summary), model, dataset in zip(
            routing.summary().items(), prepared.teachers, annotations.datasets, strict=True
        )
    ]
    return {"teachers": found, "routing": settings.identity()}


def _own_parts(algorithm: Algorithm) -> Iterator[tuple[str, object]]:
    """Yield the parts that few algorithms have, None where this one has none."""
    yield "sequence loss", algorithm.sequence_loss
    yield "rollout weight", algorithm.rollout_weight
    yield "token weight", algorithm.token_weight
    for term in algorithm.loss:
        yield f"tokens of {type(term.loss).__name__}", term.token_weight


def _tags(method: Mapping[str, Any]) -> list[str]:
    """Return what kind of training the algorithm is: from a frozen model, on rollouts of the student, or both."""
    tags = [] if dict(method["parts"])["scores"] == "none" else ["distillation"]
    return tags + (["on-policy"] if method["rollouts"] == "student" else [])


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {source}" for source, count in found.items())


def _reference_sources(prepared: Prepared) -> dict[str, Any]:
    """Return where the labels and solutions that the algorithm used came from, as counts of rows."""
    references = prepared.references
    return {} if references is None else {need: references.sources(need) for need in uses(prepared.plan)}


def _identity(folder: Path) -> str:
    return model_identity(str(folder), None, PROJECT_ROOT)
