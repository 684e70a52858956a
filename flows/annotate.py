"""Flow "sure-math-annotate": annotate a user's problems with semantic entropies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.stages.annotation import annotation_lock, open_annotation
from tasks.stages.flow_runs import flow
from tasks.stages.own_problems import export_own, find_file, own_problems
from tasks.stages.sample_and_cluster import sample_and_cluster


@flow(name="sure-math-annotate", what="annotate")
def annotate(
    problems: str,
    out: str,
    profile: str = "pocket",
    overrides: dict[str, Any] | None = None,
    columns: dict[str, str] | None = None,
    tier: str = "medium",
    licence: str = "unknown",
) -> str:
    """Annotate a file of problems, without the other stages of the factory.

    Args:
        problems: a .jsonl, .csv or .parquet file.
        out: output folder. The dataset is written to `out/dataset`; a killed run continues from the files in `out`.
        profile: name of a file in configs/, without its extension.
        overrides: settings that override the profile, nested or dotted: {"sample.num_samples": 16}.
        columns: maps text, answer, solution, id and tier to columns of the file; by default the columns of the same names.
        tier: tier of rows without one.
        licence: licence of the problems.

    Returns the path of the dataset folder.
    """
    file = find_file(problems, columns, tier, licence)
    run = open_annotation(profile, overrides, Path(out))
    with annotation_lock(run, "an annotation"):
        given = own_problems(run, file)
        sampled, clustered = sample_and_cluster(run, given)
        return export_own(run, file, given, sampled, clustered)
