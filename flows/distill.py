"""Flow "sure-math-distill": train a student on a finished dataset."""

from __future__ import annotations

from typing import Any

from tasks.stages.chain import announce_student
from tasks.stages.distill import distill as distill_stage
from tasks.stages.flow_runs import flow
from tasks.stages.limits import within_limits
from tasks.stages.opening import open_distillation


@flow(name="sure-math-distill", what="distill")
def distill(
    profile: str = "pocket",
    overrides: dict[str, Any] | None = None,
    dataset: str | None = None,
    chain: bool = False,
) -> str:
    """Distil the profile's student on a dataset, or on the problems of `distill.run.dataset.source`.

    Args:
        profile: name of a file in configs/, without its extension.
        overrides: settings that override the profile, nested or dotted: {"distill.run.seed": 1}.
        dataset: folder of an exported dataset; by default the newest version of the profile's dataset.
        chain: announce the student, which a trigger of prefect.yaml then evaluates.

    Returns the folder of the trained student.
    """
    run = open_distillation(profile, overrides, dataset)
    with within_limits(run.config, "distill"):
        student = distill_stage(run, dataset)
    if chain:
        announce_student(run.config, overrides, student)
    return student
