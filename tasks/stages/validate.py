"""Stage validate: compare a finished dataset with the known truth; writes an HTML page and JSON."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.config import PROJECT_ROOT, Config
from tasks.errors import UserError
from tasks.reports.results import renew_results
from tasks.reports.validation_report import PAGE, Validation, ValidationData, write_validation
from tasks.rows import JudgedPair, Response
from tasks.runtime.phases import phase
from tasks.runtime.published import publish_files
from tasks.seeds.truth import check, pocket_sources
from tasks.storage.artifacts import Artifact, Store
from tasks.storage.dataset import read_dataset
from tasks.storage.manifest import read_manifest
from tasks.storage.versions import latest
from tasks.text import counted
from tasks.uncertainty.validation import MEASURES, Agreement, agreement, check_pair, largest_difference

VERIFY_S = 20.0  # time limit of one Math-Verify call: long, so that a busy machine does not change a verdict


def validate(config: Config, dataset: str | None = None) -> str:
    """Write `validation/` into the profile's output folder, add its main numbers to the dataset's report, and return the path
    of its page.

    `dataset` is the folder of an exported dataset, by default the profile's newest. Raises `UserError` if there is none, or
    if the truth is not known for any of its rows.
    """
    root = in_project(config.run.output)
    folder = in_project(Path(latest(root)["dataset"] if dataset is None else dataset))
    written = write_all.with_options(name="validate", task_run_name="validate: report")
    log = get_run_logger().info
    with phase(log, lambda seconds: f"validate: comparing the dataset with the truth, {seconds:.0f} s"):
        found = written(folder, root / "validation")
    publish(found)
    renew_results(root)
    page = root / "validation" / PAGE
    publish_files("validation-report", "The validation report", {"report": page})
    log("validation: %s", page)
    return str(page)


def in_project(path: Path) -> Path:
    """Resolve a path of the settings; relative paths start at the project root."""
    return path if path.is_absolute() else PROJECT_ROOT / path


@task(cache_policy=NO_CACHE, persist_result=False)
def write_all(folder: Path, target: Path) -> Validation:
    """Read the dataset, measure it and write the report."""
    manifest = read_manifest(folder)
    examples, rows = read_dataset(folder)
    responses: dict[str, list[Response]] = defaultdict(list)
    for response in sorted(rows, key=lambda row: row.index):
        responses[response.problem_id].append(response)
    pocket = pocket_sources(manifest.settings)
    checked = [found for row in examples if (found := check(row, responses[row.id], pocket)) is not None]
    if not checked:
        raise UserError(
            f"{folder} has no row with a known answer: add curated problems (role: curated) with answers to"
            " aggregate.sources and build again"
        )
    data = ValidationData(
        name=manifest.name,
        profile=manifest.profile,
        fingerprint=manifest.fingerprint,
        examples=examples,
        checked=checked,
        agreement=judge_agreement(folder.parent, manifest.fingerprint),
        stored_difference=largest_difference(
            examples, responses, manifest.settings.get("cluster", {}).get("scope", "all")
        ),
        models=manifest.models,
    )
    return write_validation(target, data)


def judge_agreement(root: Path, fingerprint: str) -> Agreement | None:
    """Compare the judge's verdicts with Math-Verify's, for the build that exported the dataset; None if it is not in `root`."""
    clustered = clustering_of(root, fingerprint)
    if clustered is None:
        return None
    pairs = {
        (pair.first, pair.second): pair for pair in Store(root).rows(clustered, "judged_pairs", JudgedPair)
    }
    return agreement([check_pair(pairs[key], VERIFY_S) for key in sorted(pairs)])


def clustering_of(root: Path, fingerprint: str) -> Artifact | None:
    """Return the artifact of stage cluster that the dataset was exported from, or None if it no longer exists."""
    try:
        newest = latest(root)
    except UserError:
        return None
    if newest.get("fingerprint") != fingerprint:
        return None
    build = newest.get("builds", {}).get("cluster")
    found = (one for one, record in Store(root).artifacts("cluster") if record.get("build") == build)
    return None if build is None else next(found, None)


def publish(found: Validation) -> None:
    """Publish the main figures as artifacts of the Prefect UI."""
    create_table_artifact(
        table=[
            {"measure": MEASURES[one.measure], "AUROC, majority wrong": area_text(one.auroc), "AURC": area_text(one.aurc)}
            for one in found.majority.detections
        ],
        key="validation", description="Detection of wrong majority answers",
    )  # fmt: skip
    create_markdown_artifact(
        f"Problems with a known answer: {found.known:,} of {found.problems:,}. Wrong answers:"
        f" {counted(found.majority.wrong, 'majority', 'majorities')},"
        f" {found.sample.wrong:,} of {counted(found.sample.total, 'sample')}.\n",
        key="validation-rows", description="Validated rows",
    )  # fmt: skip


def area_text(area: Any) -> str:
    """Format an area with its interval: 0.873 [0.845, 0.897]."""
    return "not defined" if area is None else f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"
