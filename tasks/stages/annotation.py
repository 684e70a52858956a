"""Shared parts of all annotation runs: their models and the lock of the output folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tasks.config import PROJECT_ROOT, load_config
from tasks.llm.model_identity import model_identity
from tasks.runtime.driver import Run
from tasks.runtime.preflight import ANNOTATORS, Work, output_folder, require_ready
from tasks.stages.opening import checking
from tasks.storage.artifacts import Store
from tasks.storage.locks import alone


def open_annotation(
    profile: str, overrides: Mapping[str, Any] | None, root: Path | None = None, work: Work = "annotate"
) -> Run:
    """Open a run of the stages `sample` and `cluster` only, into `root` (default: the profile's output folder).

    Sources, evolver, quality judge and training are not checked. Raises `UserError` as `tasks.stages.opening.open_run` does.
    """
    config = load_config(profile, overrides)
    root = output_folder(config) if root is None else PROJECT_ROOT / root
    with checking():
        require_ready(config, work, root=root)
    identities = {
        name: model_identity(role.model, role.revision, PROJECT_ROOT)
        for name in ANNOTATORS
        for role in [getattr(config.models, name)]
    }
    return Run(config=config, store=Store(root), identities=identities)


def annotation_lock(run: Run, what: str) -> AbstractContextManager[None]:
    """Lock the output folder for a block; raises `UserError` immediately if another annotation run holds the lock."""
    return alone(run.store.root / "annotation.lock", what)
