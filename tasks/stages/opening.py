"""Open a run: resolve the settings and find every problem before any model starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from tasks.config import PROJECT_ROOT, Config, load_config
from tasks.errors import UserError, attempt
from tasks.llm.chat_templates import role_identity
from tasks.runtime.driver import Run
from tasks.runtime.phases import phase
from tasks.runtime.preflight import output_folder, require_ready
from tasks.runtime.source_preflight import curated_problems, is_remote, unread_sources
from tasks.seeds.registry import check, resolve
from tasks.stages.failure import check_block
from tasks.storage.artifacts import Store, atomic_write
from tasks.storage.locks import alone
from tasks.storage.ownership import BUILD, RUN_LOCK, check_owner, claim


@contextmanager
def open_run(profile: str, overrides: Mapping[str, Any] | None) -> Iterator[Run]:
    """Open a build for a block: load the settings, check everything that it needs, lock the output folder, and write the resolved
    settings to `config.json`.

    Raises `UserError` with all problems, one per line, and without writing anything if another run holds the lock for longer
    than `run.lock_wait_s`. Sources whose rows have already been read are not checked.
    """
    config = resolve(load_config(profile, overrides))
    root = output_folder(config)
    check_owner(root, BUILD)
    with checking():
        check_block(config)
        require_ready(config, "build")
    unread = unread_sources(config, root)
    if any(is_remote(source) for source in unread):  # their first rows take longer than a look-up
        with checking():
            check_sources(config)
            check_benchmarks(config)
    identities = {
        name: role_identity(role, PROJECT_ROOT)
        for name in type(config.models).model_fields
        for role in [getattr(config.models, name)]
    }
    with folder_lock(config, root, "a build"):
        claim(root, BUILD)
        yield _opened(config, root, identities)


def folder_lock(config: Config, root: Path, what: str) -> AbstractContextManager[None]:
    """Lock an output folder for a block: one build or annotation at a time writes into it. Raises `UserError` if another run
    holds the lock for longer than `run.lock_wait_s`."""
    log = None if FlowRunContext.get() is None else get_run_logger().info
    return alone(root / RUN_LOCK, what, wait_s=config.run.lock_wait_s, on_wait=log)


def open_distillation(profile: str, overrides: Mapping[str, Any] | None, dataset: str | None) -> Run:
    """Open a distillation on `dataset` (by default the profile's newest). Raises `UserError` like `open_run`."""
    config = resolve(load_config(profile, overrides))
    with checking():
        check_block(config)
        require_ready(config, "distill", dataset=None if dataset is None else Path(dataset))
    return _opened(config, output_folder(config), {})


def checking() -> AbstractContextManager[None]:
    """Say every few seconds that the run is being checked, while the block runs in a flow."""
    if FlowRunContext.get() is None:
        return nullcontext()
    return phase(
        get_run_logger().info, lambda seconds: f"checking settings, models and files, {seconds:.0f} s"
    )


def _opened(config: Config, root: Path, identities: Mapping[str, str]) -> Run:
    resolved = json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)
    atomic_write(root / "config.json", resolved + "\n")
    return Run(config=config, store=Store(root), identities=identities)


def check_sources(config: Config) -> None:
    """Check every source: files completely, data sets of the hub by their first rows.

    Raises `UserError` also when the curated sources have fewer problems than are to be held out.
    """
    problems: list[str] = []
    for source in config.aggregate.sources:
        attempt(problems, lambda one=source: check(one))
    problems += [] if problems else curated_problems(config)
    if problems:
        raise UserError("\n".join(problems))


def check_benchmarks(config: Config) -> None:
    """Check the benchmarks that the dataset is compared with, like the sources."""
    problems: list[str] = []
    for source in config.decontam.benchmarks:
        attempt(problems, lambda one=source: check(one))
    if problems:
        raise UserError("\n".join(problems))
