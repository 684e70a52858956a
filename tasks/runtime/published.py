"""Artifacts of the Prefect UI about a finished run: its files, its funnel and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.llm.ledger import Ledger
from tasks.processes.pace import duration
from tasks.runtime.dataset_export import model_roles
from tasks.runtime.driver import Run
from tasks.runtime.summaries import funnel_table, stage_counts, timings
from tasks.storage.artifacts import Artifact


def publish_files(key: str, description: str, files: Mapping[str, Path]) -> None:
    """Publish the paths of a run's results, each with a link that can be copied."""
    lines = [f"- {name}: `{path}` ([link]({path.resolve().as_uri()}))\n" for name, path in files.items()]
    create_markdown_artifact("".join(lines), key=key, description=description)


def publish_funnel(run: Run, artifacts: Sequence[Artifact], key: str = "funnel") -> None:
    """Publish the rows of every stage and the reasons for rejects."""
    create_table_artifact(
        table=funnel_table(stage_counts(run.store, artifacts)), key=key,
        description="Rows per stage: in = kept + rejected",
    )  # fmt: skip


def publish_cost(run: Run, artifacts: Sequence[Artifact], key: str = "cost") -> None:
    """Publish what the answers in this output folder have cost by model, and the time of every stage."""
    create_table_artifact(
        table=cost_table(run, artifacts), key=key, description="Requests and tokens by model, time by stage"
    )


def cost_table(run: Run, artifacts: Sequence[Artifact]) -> list[dict[str, str]]:
    """Return one row for each model that answered requests, over all runs of the output folder, and one for each stage."""
    with Ledger(run.ledger_path) as ledger:
        spent = ledger.spent()
    models = [
        {
            "what": f"{model_roles(run, model)} ({model})", "requests": f"{found.requests:,}",
            "prompt tokens": f"{found.prompt_tokens:,}", "output tokens": f"{found.completion_tokens:,}", "time": "",
        }
        for model, found in spent.items()
    ]  # fmt: skip
    stages = [
        {"what": f"stage {name}", "requests": "", "prompt tokens": "", "output tokens": "", "time": duration(seconds)}
        for name, seconds in timings(run.store, artifacts).items()
    ]  # fmt: skip
    return models + stages
