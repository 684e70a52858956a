"""Flow "sure-math-evaluate": evaluate any model on benchmarks."""

from __future__ import annotations

from typing import Any

from tasks.config import load_config
from tasks.stages.chain import announce_evaluation
from tasks.stages.evaluate import evaluate as evaluate_stage
from tasks.stages.flow_runs import flow
from tasks.stages.limits import within_limits


@flow(name="sure-math-evaluate", what="evaluate")
def evaluate(
    model: str = "",
    benchmarks: list[str] | None = None,
    protocols: list[str] | None = None,
    profile: str = "pocket",
    overrides: dict[str, Any] | None = None,
    chain: bool = False,
) -> str:
    """Evaluate a model on benchmarks; a killed run continues with the samples that are missing.

    Args:
        model: folder of a checkpoint or of a LoRA adapter, hub id, or name of a model behind `evaluate.base_url`. By default the
            profile's `evaluate.model`, or else the student that it trained last.
        benchmarks: names of tasks/benchmarks, each optionally with a local copy (gsm8k=PATH); by default the profile's.
        protocols: names of tasks/benchmarks/protocols.py, or `declared`; by default the profile's.
        profile: name of a file in configs/, whose section `evaluate` has the other settings.
        overrides: settings that override the profile, nested or dotted: {"evaluate.max_tokens": 4096}.
        chain: announce the student, of which a trigger of prefect.yaml then writes a release candidate.

    Returns the folder of the results.
    """
    given = {"model": model or None, "benchmarks": benchmarks, "protocols": protocols}
    config = load_config(profile, overrides)
    with within_limits(config, "evaluate"):
        results = evaluate_stage(config, {key: value for key, value in given.items() if value})
    if chain:
        announce_evaluation(config, overrides, results)
    return results
