"""Opening a run: settings resolved, and everything that can be known to be wrong said before a model starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tasks.core.config import PROJECT_ROOT, Config, FileSource, load_config
from tasks.core.errors import UserError
from tasks.io.artifacts import Store, atomic_write
from tasks.io.identity import model_identity
from tasks.io.servers import free_port
from tasks.seeds.registry import source_problems
from tasks.stages.driver import Run


def open_run(profile: str, overrides: Mapping[str, Any] | None) -> Run:
    """Load the settings, look at every model and source, and write the resolved settings beside the output."""
    config = load_config(profile, overrides)
    identities = check_models(config)
    check_sources(config)
    root = config.run.output if config.run.output.is_absolute() else PROJECT_ROOT / config.run.output
    root.mkdir(parents=True, exist_ok=True)
    resolved = json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)
    atomic_write(root / "config.json", resolved + "\n")
    return Run(config=config, store=Store(root), identities=identities)


def check_models(config: Config) -> dict[str, str]:
    """Identity of every role's model. A local folder must exist and hold weights; a fixed port must be free."""
    identities = {}
    for name in type(config.models).model_fields:
        role = getattr(config.models, name)
        identities[name] = model_identity(role.model, role.revision, PROJECT_ROOT)
        if role.serve is not None and role.serve.port is not None:
            free_port(role.serve)
    return identities


def check_sources(config: Config) -> None:
    """Read every file source to its end, so that a bad line is named now and not after hours."""
    for source in config.aggregate.sources:
        if isinstance(source, FileSource):
            for _ in source_problems(source):
                pass
    curated = sum(
        1 for source in config.aggregate.sources if source.role == "curated" for _ in source_problems(source)
    )
    if curated < config.aggregate.test_problems:
        raise UserError(
            f"aggregate.test_problems is {config.aggregate.test_problems}, but the curated sources hold {curated} "
            "problems: add curated problems or hold out fewer"
        )
