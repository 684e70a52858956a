"""Open a run: resolve the settings and check models, sources and training before any model starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.config import PROJECT_ROOT, Config, DistillSettings, load_config
from tasks.errors import UserError
from tasks.llm.model_identity import model_identity
from tasks.llm.servers import free_port
from tasks.runtime.driver import Run
from tasks.runtime.training_run import run_config
from tasks.seeds.registry import check, load, resolve
from tasks.stages.aggregate import aggregate_stage
from tasks.stages.benchmarks import benchmarks_stage
from tasks.storage.artifacts import Store, atomic_write
from tasks.storage.ownership import BUILD, check_owner, claim


def open_run(profile: str, overrides: Mapping[str, Any] | None) -> Run:
    """Load the settings, check every model and source, and write the resolved settings to `config.json` of the output.

    Raises `UserError` for the first problem that is found. Sources whose rows have already been read are not checked.
    """
    config = resolve(load_config(profile, overrides))
    identities = check_models(config)
    root = config.run.output if config.run.output.is_absolute() else PROJECT_ROOT / config.run.output
    check_owner(root, BUILD)
    if config.distill is not None:
        check_distill(config.distill, root)
    stage = aggregate_stage(config)
    if Store(root).find(stage.name, stage.fingerprint) is None:
        check_sources(config)
    stage = benchmarks_stage(config)
    if Store(root).find(stage.name, stage.fingerprint) is None:
        check_benchmarks(config)
    claim(root, BUILD)
    resolved = json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)
    atomic_write(root / "config.json", resolved + "\n")
    return Run(config=config, store=Store(root), identities=identities)


def check_models(config: Config) -> dict[str, str]:
    """Return the identity of every role's model. Raises `UserError` for a missing model folder or an occupied port."""
    identities = {}
    for name in type(config.models).model_fields:
        role = getattr(config.models, name)
        identities[name] = model_identity(role.model, role.revision, PROJECT_ROOT)
        if role.serve is not None and role.serve.port is not None:
            free_port(role.serve)
    return identities


def check_distill(settings: DistillSettings, root: Path) -> None:
    """Check the training settings and that the models of student and teacher exist."""
    config = run_config(settings, root / "dataset", root / "distill")
    for model in (config.student.model, config.teacher.model):
        model_identity(model, None, PROJECT_ROOT)


def check_sources(config: Config) -> None:
    """Check every source: files completely, data sets of the hub by their first rows.

    Raises `UserError` also when the curated sources have fewer problems than are to be held out.
    """
    for source in config.aggregate.sources:
        check(source)
    curated = sum(load(source).problems for source in config.aggregate.sources if source.role == "curated")
    if curated < config.aggregate.test_problems:
        raise UserError(
            f"aggregate.test_problems is {config.aggregate.test_problems}, but the curated sources have only {curated} "
            "problems: add curated problems or lower aggregate.test_problems"
        )


def check_benchmarks(config: Config) -> None:
    """Check the benchmarks that the dataset is compared with, like the sources."""
    for source in config.decontam.benchmarks:
        check(source)
