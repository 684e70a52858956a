"""Annotate a user's own problems: read a file into a table, and export its samples and clusters as a dataset."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from prompts import load_prompt
from tasks.identity import fingerprint
from tasks.reports.report import ReportData, write_report
from tasks.rows import Example, Flag, Problem, Reject, Response, Tier, Uncertainty
from tasks.runtime.driver import Run, Shard, Stage, run_shards
from tasks.runtime.models import batch_invariance
from tasks.runtime.outcomes import cut_outcomes, rejected_by, results_of, shard_of
from tasks.runtime.summaries import funnel_table, stage_counts, timings
from tasks.seeds.intake import too_long
from tasks.seeds.own_file import OwnFile, load, own_file
from tasks.stages import cluster, sample
from tasks.stages.annotation import annotation_recipe, teacher_of
from tasks.stages.export import is_written, majority_truths
from tasks.storage.artifacts import Artifact, Store, atomic_write, versions
from tasks.storage.dataset import write_dataset
from tasks.storage.examples import Annotated, examples_by_split
from tasks.storage.manifest import Manifest, StageCount

VERSION = 2
SHOWN_REJECTS = 10  # listed in the summary


def find_file(
    path: str, columns: Mapping[str, str] | None, tier: str, licence: str
) -> OwnFile:  # plain types, since these are parameters of a flow
    """Read the file completely and return its description. Raises `UserError` if it is invalid."""
    file = own_file(Path(path), columns, Tier(tier), licence)
    load(file)
    return file


def own_problems(run: Run, file: OwnFile) -> Artifact:
    """Write the file's problems. Duplicate texts (or ids) and texts that are too long for a prompt are rejected."""
    size = run.config.run.shard_rows
    stage = Stage(
        name="problems",
        version=VERSION,
        settings={"own": file.identity(), "shard_rows": size},
        unit="problems",
    )
    rows = cache(lambda: load(file).outcomes)
    leaving = cache(lambda: too_long(rows()))
    sizes = cache(lambda: cut_outcomes(rows(), size))

    def work(index: int, _on_progress: object) -> Shard:
        return shard_of(rejected_by("problems", results_of(rows(), leaving(), sizes(), index)), {})

    return run_shards(run, stage, sizes, work)


def export_own(run: Run, file: OwnFile, problems: Artifact, sampled: Artifact, clustered: Artifact) -> str:
    """Write `dataset/`, `report.html` and `latest.json`, log a summary, and return the dataset's path."""
    artifacts = (problems, sampled, clustered)
    write_own.with_options(name="export", task_run_name="export: dataset and report")(run, file, artifacts)
    counts = stage_counts(run.store, artifacts)
    create_table_artifact(
        table=funnel_table(counts), key="annotate-funnel", description="Rows per stage: in = kept + rejected"
    )
    examples, _ = examples_by_split(gather(run, artifacts))
    for line in summary(counts, examples["train"], rejects_of(run.store, artifacts)):
        get_run_logger().info("annotate: %s", line)
    get_run_logger().info("annotate: dataset %s", run.store.root / "dataset")
    get_run_logger().info("annotate: report %s", run.store.root / "report.html")
    return str(run.store.root / "dataset")


@task(cache_policy=NO_CACHE, persist_result=False)
def write_own(run: Run, file: OwnFile, artifacts: Sequence[Artifact]) -> State | None:
    """Write the files. The task run is Cached if they were already written from the current artifacts."""
    root = run.store.root
    identity = fingerprint(
        stage="annotate", version=VERSION, settings={"own": file.identity()},
        inputs=[artifact.fingerprint for artifact in artifacts],
    )  # fmt: skip
    latest: dict[str, Any] = {
        "fingerprint": identity,
        "builds": {artifact.name: run.store.record(artifact)["build"] for artifact in artifacts},
        "dataset": "dataset",
        "report": "report.html",
    }
    if is_written(root, latest):
        return Completed(name="Cached", message="dataset and report are up to date")
    examples, responses = examples_by_split(gather(run, artifacts))
    counts = stage_counts(run.store, artifacts)
    manifest = describe_own(run, file, identity, counts, timings(run.store, artifacts))
    write_dataset(root / "dataset", examples, responses, manifest)
    shown = examples["train"]
    data = ReportData(
        name=manifest.name, profile=manifest.profile, fingerprint=identity, examples=shown,
        responses=responses["train"], stages=counts, timings=manifest.timings, models=manifest.models,
        truths=majority_truths(shown), num_problems=run.config.export.report_problems,
    )  # fmt: skip
    write_report(root / "report.html", data)
    latest["counts"] = {split: len(found) for split, found in examples.items()}
    atomic_write(root / "latest.json", json.dumps(latest, indent=2) + "\n")
    return None


def gather(run: Run, artifacts: Sequence[Artifact]) -> Annotated:
    """Read all tables, by problem id. No problem is flagged, since none was compared with a benchmark."""
    problems, sampled, clustered = artifacts
    rows = list(run.store.rows(problems, "problems", Problem))
    responses: dict[str, list[Response]] = defaultdict(list)
    for response in run.store.rows(sampled, "responses", Response):
        responses[response.problem_id].append(response)
    found = run.store.rows(clustered, "uncertainties", Uncertainty)
    return Annotated(
        problems=rows,
        splits=dict.fromkeys((row.id for row in rows), "train"),
        ancestors={},
        verdicts={},
        responses=responses,
        uncertainties={row.problem_id: row for row in found},
        flags={row.id: no_flag(row.id) for row in rows},
        recipe=annotation_recipe(run),
    )


def no_flag(problem_id: str) -> Flag:
    """Return the flag of a problem that was not compared with any benchmark."""
    return Flag(problem_id=problem_id, benchmark_overlap=False, benchmarks=(), kinds=())


def describe_own(
    run: Run, file: OwnFile, identity: str, counts: tuple[StageCount, ...], seconds: Mapping[str, float]
) -> Manifest:
    """Build the manifest, with the settings, models and prompts that were used."""
    return Manifest(
        name=file.source,
        licence=file.licence,
        profile=run.config.profile,
        fingerprint=identity,
        stages=counts,
        models=dict(run.identities),
        prompts={name: load_prompt(name).fingerprint for name in (sample.PROMPT, cluster.PROMPT)},
        settings=annotation_settings(run),
        teacher=teacher_of(run),
        seeds={},
        annotation=annotation_recipe(run).fingerprints,
        batch_invariance=batch_invariance(run),
        versions=versions(),
        timings=dict(seconds),
    )


def annotation_settings(run: Run) -> dict[str, Any]:
    """Return the settings that an annotation depends on, as plain JSON data."""
    config = run.config
    models = {name: getattr(config.models, name).identity() for name in run.identities}
    settings = {"sample": config.sample.identity(), "cluster": config.cluster.identity(), "models": models}
    return json.loads(json.dumps(settings))


def rejects_of(store: Store, artifacts: Sequence[Artifact]) -> list[Reject]:
    """Return all rejected rows, in the order of the stages."""
    return [row for artifact in artifacts for row in store.rows(artifact, "rejects", Reject)]


def summary(
    counts: Sequence[StageCount], examples: Sequence[Example], rejects: Sequence[Reject]
) -> list[str]:
    """Return the summary of a finished annotation as lines of text."""
    lines = [f"{counts[0].rows_in:,} problems in, {len(examples):,} annotated, {len(rejects):,} rejected"]
    for count in counts:
        lines += [f"rejected by {count.stage}: {number:,} {reason}" for reason, number in count.reasons]
    lines += [f"  {row.reason}: {row.detail[:120]} ({row.problem_id})" for row in rejects[:SHOWN_REJECTS]]
    if examples:
        weight = sum(row.weight for row in examples) / len(examples)
        entropy = sum(row.semantic_entropy for row in examples) / len(examples)
        lines.append(f"mean weight {weight:.3f}, mean semantic entropy {entropy:.3f} nats")
    known = [row.majority_correct for row in examples if row.majority_correct is not None]
    if known:
        lines.append(
            f"the majority answer is right for {sum(known):,} of {len(known):,} problems with an answer"
        )
    return lines
