"""Stage export: write the dataset folder and the report from the tables of all stages, completely or not at all."""

from __future__ import annotations

from typing import Any

from prefect import task
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
    evolution_counts,
    gather,
    gather_overlaps,
    is_written,
    report_data,
)
from tasks.runtime.driver import Run
from tasks.runtime.phases import phase
from tasks.runtime.products import dataset_product, seeds_product
from tasks.runtime.published import publish_files
from tasks.runtime.summaries import stage_counts, timings
from tasks.stages.lineage import record_products
from tasks.storage.dataset import write_dataset
from tasks.storage.examples import examples_by_split
from tasks.storage.versions import write_latest

VERSION = 4


def export(run: Run, stages: Stages) -> str:
    """Write `dataset/`, `report.html`, `report/` and `latest.json` into the output folder; return the dataset's path."""
    artifacts = stages.in_order()
    identity = fingerprint(
        stage="export", version=VERSION, settings=run.config.export.identity(),
        inputs=[artifact.fingerprint for artifact in artifacts],
    )  # fmt: skip
    with phase(get_run_logger().info, lambda seconds: f"export: writing dataset and report, {seconds:.0f} s"):
        write_all.with_options(name="export", task_run_name="export: dataset and report")(
            run, stages, identity
        )
    root = run.store.root
    dataset, report = root / "dataset", root / "report.html"
    run.live.publish(run, artifacts)
    publish_files(
        "dataset", "Output files", {"dataset": dataset, "card": dataset / "README.md", "report": report}
    )
    seeds = seeds_product(run.store, stages.sources)
    record_products(root, run.config.profile, [seeds, dataset_product(root, dataset, [seeds.key])])
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
    if is_written(root, latest, get_run_logger().warning):
        return Completed(name="Cached", message="dataset and report are up to date")
    with run.timeline.phase("stage", "export"):
        _write(run, stages, identity, latest)
    return None


def _write(run: Run, stages: Stages, identity: str, latest: dict[str, Any]) -> None:
    """Write dataset and report, and then `latest.json`, which completes them."""
    root = run.store.root
    rows = gather(run, stages)
    examples, responses = examples_by_split(rows)
    counts = stage_counts(run.store, stages.in_order())
    overlaps = gather_overlaps(run.store, stages, examples)
    manifest = describe_run(
        run, identity, counts, timings(run.store, stages.in_order()), benchmark_counts(overlaps),
        evolution_counts(run.store, stages.rounds),
    )  # fmt: skip
    write_dataset(root / "dataset", examples, responses, manifest)
    write_report(root / "report.html", report_data(run, stages, rows, examples, overlaps, manifest))
    latest["counts"] = {split: len(found) for split, found in examples.items()}
    write_latest(root, latest)
