"""Stage export: write the dataset folder and the report from the tables of all stages, completely or not at all."""

from __future__ import annotations

import json

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from tasks.identity import fingerprint
from tasks.reports.report import write_report
from tasks.runtime.dataset_export import (
    Stages,
    benchmark_counts,
    describe_run,
    gather,
    gather_overlaps,
    is_written,
    report_data,
)
from tasks.runtime.driver import Run
from tasks.runtime.summaries import funnel_table, stage_counts, timings
from tasks.storage.artifacts import atomic_write
from tasks.storage.dataset import write_dataset
from tasks.storage.examples import examples_by_split

VERSION = 4


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
        table=funnel_table(counts), key="funnel", description="Rows per stage: in = kept + rejected"
    )
    dataset, report = run.store.root / "dataset", run.store.root / "report.html"
    create_markdown_artifact(
        f"- dataset: `{dataset}`\n- report: `{report}`\n", key="dataset", description="Output files"
    )
    get_run_logger().info("dataset: %s", dataset)
    get_run_logger().info("report: %s", report)
    return str(dataset)


@task(cache_policy=NO_CACHE, persist_result=False)
def write_all(run: Run, stages: Stages, identity: str) -> State | None:
    """Write the files of the export. The task run is Cached if they were already written from the current artifacts."""
    root = run.store.root
    builds = {artifact.name: run.store.record(artifact)["build"] for artifact in stages.in_order()}
    latest = {
        "fingerprint": identity, "builds": builds, "dataset": "dataset", "report": "report.html",
    }  # fmt: skip
    if is_written(root, latest):
        return Completed(name="Cached", message="dataset and report are up to date")
    rows = gather(run, stages)
    examples, responses = examples_by_split(rows)
    counts = stage_counts(run.store, stages.in_order())
    overlaps = gather_overlaps(run.store, stages, examples)
    manifest = describe_run(
        run, identity, counts, timings(run.store, stages.in_order()), benchmark_counts(overlaps)
    )
    write_dataset(root / "dataset", examples, responses, manifest)
    write_report(root / "report.html", report_data(run, rows, examples, overlaps, manifest))
    latest["counts"] = {split: len(found) for split, found in examples.items()}
    atomic_write(root / "latest.json", json.dumps(latest, indent=2) + "\n")
    return None
