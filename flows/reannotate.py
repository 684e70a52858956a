"""Flow "sure-math-reannotate": publish a version of a finished dataset without stale annotations."""

from __future__ import annotations

from typing import Any

from tasks.stages.annotation import annotation_lock, open_annotation
from tasks.stages.flow_runs import flow
from tasks.stages.limits import within_limits
from tasks.stages.own_problems import find_file
from tasks.stages.stale import annotate_stale, find_stale, nothing_stale, stale_problems
from tasks.stages.version import publish_version


@flow(name="sure-math-reannotate", what="reannotate")
def reannotate(
    profile: str = "pocket",
    overrides: dict[str, Any] | None = None,
    problems: str | None = None,
    columns: dict[str, str] | None = None,
    tier: str = "medium",
    licence: str = "unknown",
    answers: str = "auto",
) -> str:
    """Annotate only the rows whose annotation is stale, and publish a new version with a drift report.

    Args:
        profile: name of a file in configs/, without its extension; it defines the current annotation settings and the
            output folder with the dataset.
        overrides: settings that override the profile, nested or dotted: {"models.teacher.revision": "v2"}.
        problems: a file of problems to add; those that are not in the dataset join split train.
        columns, tier, licence, answers: how the file is read, as in the flow sure-math-annotate.

    Returns the path of the newest dataset folder, which is the old one if nothing was stale.
    """
    file = None if problems is None else find_file(problems, columns, tier, licence, answers)
    run = open_annotation(profile, overrides, work="reannotate")
    with annotation_lock(run, "a re-annotation"):
        found = find_stale(run, file)
        if not found.causes:
            return nothing_stale(run, found)
        wanted = stale_problems(run, found)
        with within_limits(run.config, "reannotate"):
            annotated = annotate_stale(run, found, wanted)
        return publish_version(run, found, (wanted, *annotated))
