"""Flow "sure-math-candidate": write the release folder of a dataset or student as the next version, without sending it."""

from __future__ import annotations

from typing import Any, Literal

from tasks.config import load_config
from tasks.stages.flow_runs import flow
from tasks.stages.release import candidate_naming, nowhere, release_folder, send


@flow(name="sure-math-candidate", what="candidate")
def candidate(
    what: Literal["dataset", "model"] = "dataset",
    profile: str = "pocket",
    overrides: dict[str, Any] | None = None,
    source: str | None = None,
) -> str:
    """Check a dataset or a student and write `release/candidate/<what>` in the output folder; nothing is sent.

    Args:
        what: dataset or model. The licence of a model is `distill.licence`.
        profile: name of a file in configs/, without its extension.
        overrides: settings that override the profile, nested or dotted: {"run.output": "output/mine"}.
        source: folder of the dataset or of the training run; by default the profile's newest.

    Returns what was written, in words.
    """
    config = load_config(profile, overrides)
    naming = candidate_naming(config, what)
    place = release_folder(what, config, naming, source, None, None, [], candidate=True)
    return send(config, place, nowhere(what), naming, None, dry_run=True)
