"""Annotate a user's own problems: read a file into a table, and export its samples and clusters as a dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from tasks.identity import fingerprint
from tasks.reports.report import ReportData, write_report
from tasks.rows import Given, Problem
from tasks.runtime.chunks import bounds
from tasks.runtime.dataset_export import is_written, majority_truths
from tasks.runtime.driver import Run, Shard, Stage, run_shards
from tasks.runtime.outcomes import cut_outcomes, rejected_by, results_of, shard_of
from tasks.runtime.own_dataset import describe_own, exported, summary, toy_notice
from tasks.runtime.phases import phase
from tasks.runtime.products import dataset_product
from tasks.runtime.published import publish_files
from tasks.runtime.summaries import rejects_of, stage_counts, timings
from tasks.seeds.intake import too_long
from tasks.seeds.own_file import OwnFile, load, own_file
from tasks.stages.lineage import record_products
from tasks.storage.artifacts import Artifact
from tasks.storage.dataset import write_dataset
from tasks.storage.versions import write_latest

VERSION = 3


def find_file(
    path: str, columns: Mapping[str, str] | None, tier: str, licence: str, answers: str = "auto"
) -> OwnFile:  # plain types, since these are parameters of a flow
    """Read the file completely, log what was recognised, and return its description. Raises `UserError` if it is invalid."""
    file = own_file(Path(path), columns, tier, licence, answers)
    for notice in load(file).notices:
        get_run_logger().info("annotate: %s", notice)
    return file


def own_problems(run: Run, file: OwnFile) -> Artifact:
    """Write the file's problems, each text once, and its rows. Texts that are too long for a prompt are rejected."""
    if (notice := toy_notice(run)) is not None:
        get_run_logger().warning("annotate: %s", notice)
    size = run.config.run.shard_rows
    stage = Stage(
        name="problems",
        version=VERSION,
        settings={"own": file.identity(), "shard_rows": size},
        unit="problem",
    )
    found = cache(lambda: load(file))
    leaving = cache(lambda: too_long(found().problems))
    sizes = cache(lambda: cut_outcomes(found().problems, size))

    @cache
    def given() -> Mapping[str, Sequence[Given]]:
        rows: dict[str, list[Given]] = defaultdict(list)
        for row in found().given:
            rows[row.problem_id].append(row)
        return rows

    def work(index: int, _on_progress: object) -> Shard:
        shard = shard_of(rejected_by("problems", results_of(found().problems, leaving(), sizes(), index)), {})
        start, stop = bounds(sizes(), index)
        rows = [row for problem in found().problems[start:stop] for row in given()[problem.id]]
        return replace(shard, tables={**shard.tables, "given": (Given, rows)})

    return run_shards(run, stage, sizes, work)


def export_own(run: Run, file: OwnFile, problems: Artifact, sampled: Artifact, clustered: Artifact) -> str:
    """Write `dataset/`, `report.html`, `report/` and `latest.json`, log a summary, and return the dataset's path."""
    artifacts = (problems, sampled, clustered)
    with phase(get_run_logger().info, lambda seconds: f"export: writing dataset and report, {seconds:.0f} s"):
        write_own.with_options(name="export", task_run_name="export: dataset and report")(
            run, file, artifacts
        )
    counts = stage_counts(run.store, artifacts)
    root, log = run.store.root, get_run_logger()
    run.live.publish(run, artifacts)
    files = {"dataset": root / "dataset", "report": root / "report.html"}
    publish_files("annotate-dataset", "Output files", files)
    record_products(root, run.config.profile, [dataset_product(root, root / "dataset")])
    given, examples, _ = exported(run, artifacts)
    for line in summary(counts, given, examples, rejects_of(run.store, artifacts)):
        log.info("annotate: %s", line)
    if (notice := toy_notice(run)) is not None:
        log.warning("annotate: %s", notice)
    log.info("annotate: dataset %s", root / "dataset")
    log.info("annotate: report %s", root / "report.html")
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
    if is_written(root, latest, get_run_logger().warning):
        return Completed(name="Cached", message="dataset and report are up to date")
    _, examples, responses = exported(run, artifacts)
    counts = stage_counts(run.store, artifacts)
    manifest = describe_own(run, file, identity, counts, timings(run.store, artifacts))
    write_dataset(root / "dataset", {"train": examples}, {"train": responses}, manifest)
    rejects = rejects_of(run.store, artifacts)
    rejected = {row.problem_id for row in rejects}
    data = ReportData(
        name=manifest.name, profile=manifest.profile, fingerprint=identity, examples=examples,
        responses=responses, stages=counts, timings=manifest.timings, models=manifest.models,
        truths=majority_truths(examples, manifest.settings), num_problems=run.config.export.report_problems,
        others=[row for row in run.store.rows(artifacts[0], "problems", Problem) if row.id in rejected], rejects=rejects,
    )  # fmt: skip
    write_report(root / "report.html", data)
    latest["counts"] = {"train": len(examples)}
    write_latest(root, latest)
    return None
