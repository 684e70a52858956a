"""The chain of flows: a run with `chain` announces its result, and a trigger of prefect.yaml starts the next flow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.config import Config
from tasks.runtime.preflight import output_folder
from tasks.storage import lineage
from tasks.storage.lineage import Kind

BUILT, DISTILLED = "sure-math.dataset.built", "sure-math.student.distilled"
STUDENT_EVALUATED, DATASET_EVALUATED = "sure-math.student.evaluated", "sure-math.dataset.evaluated"


def announce_dataset(config: Config, overrides: Mapping[str, Any] | None, dataset: str) -> None:
    """Announce a finished dataset, on which the profile's student is then distilled. Without a student nothing follows."""
    if config.distill is None:
        get_run_logger().info("chain: the profile has no section distill, so that nothing follows")
        return
    _announce(BUILT, config, overrides, {"dataset": dataset})


def announce_student(config: Config, overrides: Mapping[str, Any] | None, student: str) -> None:
    """Announce a trained student, which is then evaluated. Without benchmarks nothing follows."""
    if not config.evaluate.benchmarks:
        get_run_logger().info("chain: evaluate.benchmarks is empty, so that nothing follows")
        return
    _announce(DISTILLED, config, overrides, {"student": student})


def announce_evaluation(config: Config, overrides: Mapping[str, Any] | None, results: str) -> None:
    """Announce the student whose results are in the folder `results`, and the dataset that it was trained on; their release
    candidates follow. Nothing follows the evaluation of a model that was not trained in this output folder.
    """
    root = output_folder(config)
    known = lineage.products(root)
    made_from = dict.fromkeys(
        parent
        for one in known.values()
        if one.kind is Kind.EVALUATION and (root / one.folder).is_relative_to(Path(results).resolve())
        for parent in one.made_from
    )
    students = [known[key] for key in made_from if key in known]
    if not students:
        get_run_logger().info("chain: the model was not trained in %s, so that nothing follows", root)
    for student in students:
        _announce(STUDENT_EVALUATED, config, overrides, {"run": str(root / student.folder)})
        for key in student.made_from:
            if key in known:
                _announce(DATASET_EVALUATED, config, overrides, {"dataset": str(root / known[key].folder)})


def _announce(
    event: str, config: Config, overrides: Mapping[str, Any] | None, facts: Mapping[str, str]
) -> None:
    related = [
        {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}
    ]
    emit_event(
        event=event,
        resource={"prefect.resource.id": f"sure-math.{config.profile}"},
        related=related,
        payload={"profile": config.profile, "overrides": dict(overrides or {}), **facts},
    )
    get_run_logger().info("chain: announced %s", event)
