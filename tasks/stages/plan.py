"""Stage plan: logs and publishes the plan of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.runtime.estimate import describe
from tasks.runtime.plan import write_plan


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan(profile: str, overrides: Mapping[str, Any] | None) -> str:
    """Log the plan of a run, show it in the Prefect UI and write `plan.json`; return that file's path."""
    path, found = write_plan(profile, overrides)
    lines = describe(found)
    for line in lines:
        get_run_logger().info("plan: %s", line)
    text = "\n".join(lines).replace("```", "'''")
    create_markdown_artifact(
        f"```\n{text}\n```\n", key="plan", description="Estimated requests, tokens and disk space"
    )
    return str(path)
