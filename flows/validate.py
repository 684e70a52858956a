"""Flow "sure-math-validate": report how well a finished dataset's annotations predict the truth."""

from __future__ import annotations

from typing import Any

from tasks.config import load_config
from tasks.stages.flow_runs import flow
from tasks.stages.validate import validate as validate_stage


@flow(name="sure-math-validate", what="validate")
def validate(
    profile: str = "pocket", overrides: dict[str, Any] | None = None, dataset: str | None = None
) -> str:
    """Compare a dataset's entropies, weights and verdicts with the truth, on all rows where it is known.

    Args:
        profile: name of a file in configs/, without its extension.
        overrides: settings that override the profile, nested or dotted: {"run.output": "output/mine"}.
        dataset: folder of an exported dataset; by default the newest version of the profile's dataset.

    Returns the path of the report.
    """
    return validate_stage(load_config(profile, overrides), dataset)
