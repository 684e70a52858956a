"""Find the stale rows of a finished dataset and prepare them as inputs of the stages sample and cluster."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from tasks.runtime.annotation_identity import annotation_recipe
from tasks.runtime.driver import Run, Shard, Stage, run_shards
from tasks.runtime.outcomes import cut_outcomes, rejected_by, results_of, shard_of
from tasks.runtime.reannotation import VERSION, Review, ledger_size, new_problems, selection_settings
from tasks.seeds.intake import too_long
from tasks.seeds.own_file import OwnFile, OwnProblems, load
from tasks.stages.cluster import cluster
from tasks.stages.responses import with_kept_responses
from tasks.stages.sample import sample
from tasks.stages.sample_and_cluster import sample_and_cluster
from tasks.storage.artifacts import Artifact
from tasks.storage.manifest import read_manifest
from tasks.storage.versions import latest, read_examples, splits_of
from tasks.text import counted
from tasks.uncertainty.annotation import Cause, stale_rows


def find_stale(run: Run, file: OwnFile | None) -> Review:
    """Find the rows whose annotation fingerprint differs from the current recipe, and the file's problems that are new.

    Raises `UserError` when the output folder has no dataset, or the file is invalid.
    """
    added = OwnProblems() if file is None else load(file)
    folder = Path(latest(run.store.root)["dataset"])
    manifest = read_manifest(folder)
    recipe = annotation_recipe(run)
    rows = {row.id: row for split in splits_of(manifest) for row in read_examples(folder, split)}
    new = new_problems(added, rows.values())
    causes = stale_rows(rows.values(), recipe) | dict.fromkeys(new, Cause.NEW)
    log = get_run_logger().info
    log(
        "reannotate: %s of %s stale in %s",
        f"{len(causes) - len(new):,}",
        counted(len(rows), "row"),
        folder,
    )
    for cause, count in Counter(causes.values()).most_common():
        log("reannotate: %s, cause: %s", f"{count:,}", cause.value)
    return Review(
        dataset=folder, manifest=manifest, recipe=recipe, rows=rows, new=new, causes=causes,
        answers=ledger_size(run), given={row.id: row for row in added.given if row.id in new},
    )  # fmt: skip


def nothing_stale(run: Run, review: Review) -> str:
    """Log that nothing is stale, and return the path of the unchanged dataset."""
    how = f"match the current profile {run.config.profile}"
    line = f"nothing is stale: all rows of {review.dataset} ({len(review.rows):,}) {how}"
    get_run_logger().info("reannotate: %s; no model was started", line)
    create_markdown_artifact(f"{line}\n", key="reannotate", description="Stale rows")
    return str(review.dataset)


def stale_problems(run: Run, review: Review) -> Artifact:
    """Write the problems that need samples. A new problem that is too long for a prompt is rejected."""
    rows, size = review.to_sample, run.config.run.shard_rows
    stage = Stage(
        name="stale", version=VERSION, settings=selection_settings(run, review, rows), unit="problem"
    )
    leaving = cache(lambda: too_long(rows))
    sizes = cut_outcomes(rows, size)

    def work(index: int, _on_progress: object) -> Shard:
        return shard_of(rejected_by("stale", results_of(rows, leaving(), sizes, index)), {})

    return run_shards(run, stage, lambda: sizes, work)


def annotate_stale(run: Run, review: Review, wanted: Artifact) -> tuple[Artifact, Artifact, Artifact]:
    """Sample and cluster the stale problems.

    Returns the artifacts of the newly sampled problems, of all responses that were clustered, and of the uncertainties.
    """
    if not review.to_cluster:
        sampled, clustered = sample_and_cluster(run, wanted)
        return sampled, sampled, clustered
    sampled = sample(run, wanted)
    responses = with_kept_responses(run, review, sampled)
    return sampled, responses, cluster(run, responses)
