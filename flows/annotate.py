"""Flow "sure-math-annotate": annotate a user's problems with semantic entropies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.stages.annotation import open_annotation, own_output
from tasks.stages.flow_runs import flow
from tasks.stages.limits import within_limits
from tasks.stages.own_problems import export_own, find_file, own_problems
from tasks.stages.sample_and_cluster import sample_and_cluster


@flow(name="sure-math-annotate", what="annotate")
def annotate(  # noqa: PLR0913, PLR0917 - the parameters of the deployment
    problems: str,
    out: str,
    profile: str = "pocket",
    overrides: dict[str, Any] | None = None,
    columns: dict[str, str] | None = None,
    tier: str = "medium",
    licence: str = "unknown",
    answers: str = "auto",
) -> str:
    """Annotate a file of problems, without the other stages of the factory.

    Args:
        problems: a file of problems, in a format of docs/file-formats.md.
        out: output folder, new, empty or of an earlier run with this file. The dataset is written to `out/dataset`; a killed run
            continues from the files in `out`.
        profile: name of a file in configs/, without its extension.
        overrides: settings that override the profile, nested or dotted: {"sample.num_samples": 16}.
        columns: maps text, answer, solution, id and tier to columns of the file; by default the columns of the same names.
            An empty name leaves a field out.
        tier: tier of rows without one.
        licence: licence of the problems.
        answers: auto recognises gold answers in a known form, such as `#### 18`; verbatim takes them as they are.

    Returns the path of the dataset folder.
    """
    file = find_file(problems, columns, tier, licence, answers)
    run = open_annotation(profile, overrides, Path(out))
    with own_output(run, file.source), within_limits(run.config, "annotate"):
        given = own_problems(run, file)
        sampled, clustered = sample_and_cluster(run, given)
        return export_own(run, file, given, sampled, clustered)
