"""Stage evaluate: write the settings of an evaluation and run it as a job, whose lines are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.config import PROJECT_ROOT, Config
from tasks.evaluate_settings import EvaluateSettings
from tasks.processes.jobs import local_lines
from tasks.processes.pace import duration
from tasks.runtime.evaluation import (
    SETTINGS,
    command,
    environment,
    evaluation_settings,
    job_failed_as_user_error,
    result_folders,
    result_rows,
)
from tasks.runtime.phases import phase
from tasks.runtime.preflight import output_folder
from tasks.runtime.products import evaluation_product
from tasks.runtime.published import publish_files
from tasks.stages.lineage import record_products
from tasks.storage.disk import atomic_write, make_folder

LINE = "evaluate: "


def evaluate(config: Config, given: Mapping[str, Any]) -> str:
    """Evaluate the model of the settings and return the folder of the results. `given` overrides the section `evaluate`.

    Raises `UserError` with one sentence for settings, data or a model that cannot be used.
    """
    settings = evaluation_settings(config, given)
    out = PROJECT_ROOT / settings.out.expanduser()
    make_folder(out)
    name = f"evaluate: {Path(settings.model or '').name}"
    folders = run_job.with_options(name="evaluate", task_run_name=name)(out, settings)
    create_table_artifact(
        table=result_rows(folders), key="evaluation", description="Scores of the evaluation"
    )
    publish_files("evaluation-files", "Result folders", {folder.parent.name: folder for folder in folders})
    root = output_folder(config)
    record_products(root, config.profile, [evaluation_product(root, folder) for folder in folders])
    return str(folders[0].parents[1]) if folders else str(out)


@task(cache_policy=NO_CACHE, persist_result=False)
def run_job(out: Path, settings: EvaluateSettings) -> list[Path]:
    """Run `python -m training.evaluate` on this machine and return the folders of its results."""
    logger = get_run_logger()
    atomic_write(out / SETTINGS, json.dumps(settings.model_dump(mode="json"), indent=2) + "\n")
    make_folder(out / "logs")
    printed: list[str] = []
    lines = local_lines(
        command(out),
        folder=PROJECT_ROOT,
        environment=environment(settings),
        log=out / "logs" / "evaluate.log",
    )
    waiting = phase(logger.info, lambda seconds: f"evaluate: the evaluation goes on, {duration(seconds)}")
    with job_failed_as_user_error(out), closing(lines), waiting:
        for line in lines:
            if line.startswith(LINE):
                printed.append(line)
                logger.info("%s", line)
    return result_folders(printed)
