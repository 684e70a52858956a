"""Stage validate: a finished dataset against the truth, as a page and as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.core.config import PROJECT_ROOT, Config
from tasks.core.errors import UserError
from tasks.core.rows import JudgedPair, Response
from tasks.core.validation import (
    MEASURES,
    Agreement,
    agreement,
    check_pair,
    largest_difference,
)
from tasks.io.artifacts import Artifact, Store
from tasks.io.dataset import read_dataset, read_manifest
from tasks.io.validation_report import PAGE, Validation, ValidationData, write_validation
from tasks.io.versions import latest
from tasks.seeds.truth import check

VERIFY_S = 20.0  # for one question to Math-Verify: long, so that a busy machine changes no verdict


def validate(config: Config, dataset: str | None = None) -> str:
    """Write `validation/` into the profile's output folder; return the path of its page. `dataset` is the folder of an
    exported dataset, by default the profile's newest. `UserError` when there is none, or no row whose truth is known."""
    root = in_project(config.run.output)
    folder = in_project(Path(latest(root)["dataset"] if dataset is None else dataset))
    written = write_all.with_options(name="validate", task_run_name="validate: report")
    found = written(folder, root / "validation")
    publish(found)
    page = root / "validation" / PAGE
    get_run_logger().info("validation: %s", page)
    return str(page)


def in_project(path: Path) -> Path:
    """A path of the settings: relative ones start where the project stands."""
    return path if path.is_absolute() else PROJECT_ROOT / path


@task(cache_policy=NO_CACHE, persist_result=False)
def write_all(folder: Path, target: Path) -> Validation:
    """Read the dataset, measure it and write the report."""
    manifest = read_manifest(folder)
    examples, rows = read_dataset(folder)
    responses: dict[str, list[Response]] = defaultdict(list)
    for response in sorted(rows, key=lambda row: row.index):
        responses[response.problem_id].append(response)
    checked = [found for row in examples if (found := check(row, responses[row.id])) is not None]
    if not checked:
        raise UserError(
            f"{folder} has no row whose right answer is known: add curated problems (role: curated) with answers"
            " to aggregate.sources and build again"
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
    """The judge's verdicts of the build that exported this dataset, beside Math-Verify's; None where they are not in `root`."""
    clustered = clustering_of(root, fingerprint)
    if clustered is None:
        return None
    pairs = {
        (pair.first, pair.second): pair for pair in Store(root).rows(clustered, "judged_pairs", JudgedPair)
    }
    return agreement([check_pair(pairs[key], VERIFY_S) for key in sorted(pairs)])


def clustering_of(root: Path, fingerprint: str) -> Artifact | None:
    """The artifact of stage cluster that the dataset was exported from, when it still lies there."""
    try:
        newest = latest(root)
    except UserError:
        return None
    if newest.get("fingerprint") != fingerprint:
        return None
    for path in sorted((root / "artifacts").glob("cluster-*/record.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["build"] == newest.get("builds", {}).get("cluster"):
            return Artifact(
                name="cluster",
                fingerprint=record["fingerprint"],
                path=path.parent,
                num_rows=record["num_rows"],
            )
    return None


def publish(found: Validation) -> None:
    """The figures for the Prefect UI."""
    create_table_artifact(
        table=[
            {"measure": MEASURES[one.measure], "AUROC, majority wrong": one_area(one.auroc), "AURC": one_area(one.aurc)}
            for one in found.majority.detections
        ],
        key="validation", description="Finding wrong majority answers",
    )  # fmt: skip
    create_markdown_artifact(
        f"{found.known:,} of {found.problems:,} problems have a known truth; {found.majority.wrong:,} majority answers and"
        f" {found.sample.wrong:,} of {found.sample.total:,} samples are wrong.\n",
        key="validation-rows", description="What the dataset was validated on",
    )  # fmt: skip


def one_area(area: Any) -> str:
    """0.873 [0.845, 0.897]."""
    return "not defined" if area is None else f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"
