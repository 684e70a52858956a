"""Publish a new version of a dataset: the old rows with the renewed annotations, and a report of the changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from tasks.errors import UserError
from tasks.identity import fingerprint
from tasks.reports.drift_report import PAGE
from tasks.runtime.driver import Run
from tasks.runtime.new_version import (
    Artifacts,
    Reannotation,
    fill,
    headline,
    new_manifest,
    reannotation_of,
    record_latest,
)
from tasks.runtime.products import dataset_product
from tasks.runtime.published import publish_files
from tasks.runtime.reannotation import Review
from tasks.stages.lineage import record_products
from tasks.storage.artifacts import whole_folder
from tasks.storage.lineage import Kind, key_of
from tasks.storage.versions import FOLDER

VERSION = 1


def publish_version(run: Run, review: Review, artifacts: Artifacts) -> str:
    """Write `versions/<fingerprint>/` (dataset, report, drift report), completely or not at all, and update `latest.json`.

    Returns the path of the new dataset, or of the old one if nothing changed (all new problems were rejected). Raises
    `UserError`, without changing the dataset, if more than half of its rows would be lost.
    """
    outcome = reannotation_of(run, review, artifacts)
    removed, why = len(outcome.changes.removed), json.dumps(outcome.reasons)
    if 2 * removed > len(review.rows):
        raise UserError(
            f"{removed:,} of {len(review.rows):,} rows could not be annotated again ({why}), so the dataset was not changed:"
            " check the teacher and the token limits of the profile"
        )
    if not outcome.changes.size:
        get_run_logger().info(
            "reannotate: no new problem could be annotated (%s); the dataset was not changed", why
        )
        return str(review.dataset)
    identity = fingerprint(
        stage="reannotate", version=VERSION, settings={},
        inputs=(review.manifest.fingerprint, *(artifact.fingerprint for artifact in artifacts)),
    )  # fmt: skip
    folder = run.store.root / FOLDER / identity[:16]
    manifest = new_manifest(run, review, identity, outcome, artifacts)
    write_whole.with_options(name="version", task_run_name=f"version: {identity[:16]}")(
        folder, lambda place: fill(place, run, review, manifest, outcome)
    )
    record_latest(run, review, folder)
    publish(folder, outcome)
    older = key_of(Kind.DATASET, review.manifest.fingerprint)
    made = dataset_product(run.store.root, folder / "dataset", [older])
    record_products(run.store.root, run.config.profile, [made])
    return str(folder / "dataset")


@task(cache_policy=NO_CACHE, persist_result=False)
def write_whole(folder: Path, fill_it: Callable[[Path], None]) -> State | None:
    """Write the version's folder. The task run is Cached if an interrupted run had already finished it."""
    if folder.exists():
        return Completed(name="Cached", message="the version already exists")
    with whole_folder(folder) as place:
        fill_it(place)
    return None


def publish(folder: Path, outcome: Reannotation) -> None:
    """Log the main numbers and publish them as artifacts of the Prefect UI."""
    rows = [{"what": name, "value": value} for name, value in headline(outcome).items()]
    create_table_artifact(table=rows, key="drift", description="Changes and cost of the re-annotation")
    files = {"dataset": folder / "dataset", "drift report": folder / PAGE}
    publish_files("reannotate", "Files of the new version", files)
    for row in rows:
        get_run_logger().info("reannotate: %s %s", row["what"], row["value"])
    get_run_logger().info("reannotate: dataset %s", folder / "dataset")
    get_run_logger().info("reannotate: drift report %s", folder / PAGE)
