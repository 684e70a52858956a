"""Stage export: the dataset folder and the report, whole or not at all, from the tables of all stages."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from prompts import all_prompts, load_prompt
from tasks.core.config import PROJECT_ROOT
from tasks.core.identity import fingerprint
from tasks.core.rows import Example, Problem, Response, Selected, Uncertainty, Verdict
from tasks.io.artifacts import Artifact, Store, atomic_write, versions
from tasks.io.dataset import Manifest, StageCount, Teacher, read_manifest, write_dataset
from tasks.io.report import ReportData, pick_family, write_report
from tasks.io.tokenizer_identity import tokenizer_identity
from tasks.seeds.truth import majority_is_right
from tasks.stages.driver import Run
from tasks.stages.examples import Annotated, examples_by_split

VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The finished artifacts that the export joins."""

    sources: Artifact
    rounds: tuple[Artifact, ...]
    rules: Artifact
    deduplicated: Artifact
    judged: Artifact
    selected: Artifact
    sampled: Artifact
    clustered: Artifact

    def in_order(self) -> tuple[Artifact, ...]:
        """As the rows went through them."""
        return (
            self.sources, *self.rounds, self.rules, self.deduplicated, self.judged, self.selected, self.sampled,
            self.clustered,
        )  # fmt: skip


def export(run: Run, stages: Stages) -> str:
    """Write `dataset/`, `report.html` and `latest.json` into the output folder; return the dataset's path."""
    artifacts = stages.in_order()
    identity = fingerprint(
        stage="export", version=VERSION, settings=run.config.export.identity(),
        inputs=[artifact.fingerprint for artifact in artifacts],
    )  # fmt: skip
    write_all.with_options(name="export", task_run_name="export: dataset and report")(run, stages, identity)
    counts = stage_counts(run.store, artifacts)
    create_table_artifact(
        table=funnel_table(counts), key="funnel", description="Rows through the stages: in = kept + rejected"
    )
    dataset, report = run.store.root / "dataset", run.store.root / "report.html"
    create_markdown_artifact(
        f"- dataset: `{dataset}`\n- report: `{report}`\n", key="dataset", description="What was built"
    )
    get_run_logger().info("dataset: %s", dataset)
    get_run_logger().info("report: %s", report)
    return str(dataset)


@task(cache_policy=NO_CACHE, persist_result=False)
def write_all(run: Run, stages: Stages, identity: str) -> State | None:
    """The files of the export; Cached when they were written from the very artifacts that lie there now."""
    root = run.store.root
    builds = {artifact.name: run.store.record(artifact)["build"] for artifact in stages.in_order()}
    latest = {
        "fingerprint": identity, "builds": builds, "dataset": str(root / "dataset"), "report": str(root / "report.html"),
    }  # fmt: skip
    if is_written(root, latest):
        return Completed(name="Cached", message="dataset and report are on disk")
    rows = gather(run.store, stages)
    examples, responses = examples_by_split(rows)
    counts = stage_counts(run.store, stages.in_order())
    manifest = describe_run(run, identity, counts, timings(run.store, stages.in_order()))
    write_dataset(root / "dataset", examples, responses, manifest)
    write_report(root / "report.html", report_data(run, rows, examples, manifest))
    latest["counts"] = {split: len(found) for split, found in examples.items()}
    atomic_write(root / "latest.json", json.dumps(latest, indent=2) + "\n")
    return None


def is_written(root: Path, latest: Mapping[str, Any]) -> bool:
    """Whether dataset and report stand there as this very run would write them."""
    try:
        seen = json.loads((root / "latest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    same = all(seen.get(key) == value for key, value in latest.items())
    if not (same and (root / "report.html").is_file() and (root / "dataset" / "manifest.json").is_file()):
        return False
    return read_manifest(root / "dataset").fingerprint == latest["fingerprint"]


def gather(store: Store, stages: Stages) -> Annotated:
    """All tables, by problem id."""
    selected = list(store.rows(stages.selected, "problems", Problem))
    ancestors = {
        row.id: row
        for artifact in (stages.sources, *stages.rounds)
        for row in store.rows(artifact, "problems", Problem)
    }
    responses: dict[str, list[Response]] = defaultdict(list)
    for response in store.rows(stages.sampled, "responses", Response):
        responses[response.problem_id].append(response)
    return Annotated(
        problems=selected,
        splits={row.problem_id: row.split for row in store.rows(stages.selected, "selected", Selected)},
        ancestors=ancestors,
        verdicts={row.problem_id: row for row in store.rows(stages.judged, "verdicts", Verdict)},
        responses=responses,
        uncertainties={
            row.problem_id: row for row in store.rows(stages.clustered, "uncertainties", Uncertainty)
        },
    )


def stage_counts(store: Store, artifacts: Sequence[Artifact]) -> tuple[StageCount, ...]:
    """in, kept and rejected by reason of every stage."""
    counts = [(artifact.name, store.record(artifact)["counts"]) for artifact in artifacts]
    return tuple(
        StageCount(stage=name, rows_in=count["in"], kept=count["kept"], rejected=count["rejected"])
        for name, count in counts
    )


def timings(store: Store, artifacts: Sequence[Artifact]) -> dict[str, float]:
    """Seconds of work in the shards of every stage, starting its server included."""
    seconds = {}
    for artifact in artifacts:
        shards = (store.finished_shard(artifact.path, shard.index) or {} for shard in store.shards(artifact))
        seconds[artifact.name] = round(sum(shard["seconds"] for shard in shards), 3)
    return seconds


def funnel_table(counts: Sequence[StageCount]) -> list[dict[str, Any]]:
    """One line a stage for the Prefect UI."""
    return [
        {
            "stage": count.stage,
            "in": count.rows_in,
            "kept": count.kept,
            "rejected": count.dropped,
            "reasons": ", ".join(f"{reason}: {number}" for reason, number in count.reasons) or "none",
        }
        for count in counts
    ]


def describe_run(
    run: Run, identity: str, counts: tuple[StageCount, ...], seconds: Mapping[str, float]
) -> Manifest:
    """The manifest: who made the rows, how, and how many."""
    config, sampling = run.config, run.config.sample.sampling
    role = config.models.teacher
    files = tokenizer_identity(role.model, role.revision, PROJECT_ROOT)
    return Manifest(
        name=config.export.name,
        licence=config.export.licence,
        profile=config.profile,
        fingerprint=identity,
        stages=counts,
        models=dict(run.identities),
        prompts={name: load_prompt(name).fingerprint for name in all_prompts()},
        settings=json.loads(json.dumps(config.identity())),
        teacher=Teacher(
            model=run.identities["teacher"],
            prompt=load_prompt("teacher/solve").fingerprint,
            tokenizer=files.tokenizer,
            chat_template=files.chat_template,
            num_samples=config.sample.num_samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            thinking=role.thinking,
        ),
        seeds={"evolve": config.evolve.seed, "dedup": config.dedup.seed, "select": config.select.seed},
        versions=versions(),
        timings=dict(seconds),
    )


def report_data(
    run: Run, rows: Annotated, examples: Mapping[str, Sequence[Example]], manifest: Manifest
) -> ReportData:
    """What the report shows."""
    shown = [row for found in examples.values() for row in found]
    return ReportData(
        name=manifest.name,
        profile=manifest.profile,
        fingerprint=manifest.fingerprint,
        examples=shown,
        responses=[response for row in shown for response in rows.responses[row.id]],
        stages=manifest.stages,
        timings=manifest.timings,
        models=manifest.models,
        truths=majority_truths(shown),
        family=pick_family(rows.ancestors.values()),
        num_problems=run.config.export.report_problems,
    )


def majority_truths(examples: Sequence[Example]) -> dict[str, bool] | None:
    """id -> is the majority answer right, for the rows whose truth is known; None when there is none."""
    known = {row.id: majority_is_right(row.problem, row.answer, row.majority_answer) for row in examples}
    return {row_id: right for row_id, right in known.items() if right is not None} or None
