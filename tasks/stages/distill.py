"""Stage distill: start the training. Writes RUN.json, checks it, runs it as a job and shows its progress."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from tasks.config import PROJECT_ROOT, DistillSettings
from tasks.errors import UserError
from tasks.processes.jobs import cluster_lines, local_lines
from tasks.processes.pace import duration
from tasks.runtime.driver import Run
from tasks.runtime.phases import phase
from tasks.runtime.preflight import newest_dataset
from tasks.runtime.products import student_product
from tasks.runtime.published import publish_files
from tasks.runtime.training_job import (
    EVALUATED,
    Interrupted,
    check_run,
    command,
    environment,
    evaluation_rows,
    follow,
    interrupted_if_advanced,
    job_failed_as_user_error,
)
from tasks.runtime.training_run import held_out, reads_dataset, run_config, write_held_out
from tasks.stages.lineage import record_products
from tasks.storage.artifacts import atomic_write
from tasks.storage.checksums import read_sealed
from tasks.text import counted
from training.config import RunConfig, run_folder

RETRIES, RETRY_AFTER_S = 2, 10
"""A training is started again only if it had written a checkpoint since its start: an error that repeats ends it."""


def distill_in_build(run: Run, dataset: str) -> str | None:
    """Run `distill` if the profile includes it in a build (`distill.in_build`), else return None."""
    settings = run.config.distill
    return distill(run, dataset) if settings is not None and settings.in_build else None


def distill(run: Run, dataset: str | None) -> str:
    """Train the profile's student on the dataset (None: the profile's newest), or on the source that the profile names, and
    return the folder of the trained student.

    A finished run is reused; an unfinished one continues from its last checkpoint. Raises `UserError` if the profile has no
    section distill.
    """
    settings = run.config.distill
    if settings is None:
        raise UserError(
            f"profile {run.config.profile} has no section `distill`: add one, or choose another profile"
        )
    output = run.store.root / "distill"
    folder = Path(dataset) if dataset is not None else run.store.root / "dataset"
    if dataset is None and reads_dataset(settings):
        folder = newest_dataset(run.store.root)
    config = run_config(settings, folder, output)
    write_held_out(output / "held_out.jsonl", held_out(settings, folder))
    name = f"distill: {config.algorithm.name}"
    with run.timeline.phase("stage", "distill"):
        trained = train.with_options(name="distill", task_run_name=name)(config, settings)
    result = read_sealed(trained / "result.json", "run the distillation again")
    publish(result)
    record_products(run.store.root, run.config.profile, [student_product(run.store.root, trained)])
    files = {"student": trained / "student", "curves": trained / "curves.png", "log": trained / "train.log"}
    publish_files("distill-files", "Output files", files)
    get_run_logger().info("distill: student in %s", trained / "student")
    return str(trained / "student")


def advanced(_task: object, _run: object, state: State[Any]) -> bool:
    """Whether a failed training had written a checkpoint since its start, from which the next attempt continues."""
    return isinstance(state.data, Interrupted)


@task(
    cache_policy=NO_CACHE, persist_result=False, retries=RETRIES, retry_delay_seconds=RETRY_AFTER_S,
    retry_condition_fn=advanced,
)  # fmt: skip
def train(config: RunConfig, settings: DistillSettings) -> Path:
    """Check the run, then train it as a job on this machine or on the Ray cluster `ray_address`; return the run's folder."""
    logger = get_run_logger()
    settled = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    with phase(logger.info, lambda seconds: f"distill: checking data, models and memory, {seconds:.0f} s"):
        folder = run_folder(config.output, check_run(config.output, settled, logger.info))
    atomic_write(folder / "RUN.json", settled)  # each run has its own, so concurrent runs do not interfere
    launch = command(folder)
    place: Any = {"folder": PROJECT_ROOT, "environment": environment(), "log": folder / "train.log"}
    if settings.ray_address is None:
        lines = local_lines(launch, **place)
    else:
        lines = cluster_lines(settings.ray_address, f"sure-math-{folder.name}", launch, **place)
    training = phase(logger.info, lambda seconds: f"distill: the training goes on, {duration(seconds)}")
    with (
        interrupted_if_advanced(folder, logger.warning),
        job_failed_as_user_error(folder),
        closing(lines),
        training,
    ):
        follow(lines, logger.info, folder)
    return folder


def publish(result: dict[str, Any]) -> None:
    """Publish the result as artifacts of the Prefect UI."""
    cost = result["cost"]
    rows = [{"what": name, "value": f"{value:,.1f}"} for name, value in cost.items()]
    create_table_artifact(table=rows, key="distill-cost", description="Cost of the training")
    if result["held_out"] is not None:
        before, after, gain = (result["held_out"][name] for name in ("before", "after", "gain"))
        create_markdown_artifact(
            f"pass@1 {before['value']:.1%} before, {after['value']:.1%} after, gain {100 * gain['value']:+.1f} points"
            f" [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}] on {counted(gain['n'], 'held-out problem')}\n",
            key="distill-gain", description="Gain on the held-out problems",
        )  # fmt: skip
        table = evaluation_rows(result["evaluations"], result["exported"]["step"])
        create_table_artifact(table=table, key="distill-evaluations", description=EVALUATED)
