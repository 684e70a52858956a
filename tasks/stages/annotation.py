"""Shared parts of all annotation runs: their models and the lock of the output folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tasks.config import PROJECT_ROOT, load_config
from tasks.llm.model_identity import model_identity
from tasks.llm.servers import free_port
from tasks.runtime.driver import Run
from tasks.storage.artifacts import Store
from tasks.storage.locks import alone
from tasks.storage.ownership import annotation_of, check_owner, claim

ROLES = ("teacher", "equivalence_judge")


def open_annotation(profile: str, overrides: Mapping[str, Any] | None, root: Path | None = None) -> Run:
    """Open a run of the stages `sample` and `cluster` only, into `root` (default: the profile's output folder).

    Sources, evolver, quality judge and training are not checked. Raises `UserError` as `tasks.stages.opening.open_run` does.
    """
    config = load_config(profile, overrides)
    root = root or config.run.output
    identities = {}
    for name in ROLES:
        role = getattr(config.models, name)
        identities[name] = model_identity(role.model, role.revision, PROJECT_ROOT)
        if role.serve is not None and role.serve.port is not None:
            free_port(role.serve)
    return Run(config=config, store=Store(PROJECT_ROOT / root), identities=identities)


def annotation_lock(run: Run, what: str) -> AbstractContextManager[None]:
    """Lock the output folder for a block; raises `UserError` immediately if another annotation run holds the lock."""
    return alone(run.store.root / "annotation.lock", what)


@contextmanager
def own_output(run: Run, source: str) -> Iterator[None]:
    """Lock the output folder of an annotation of the file `source` for a block. Raises `UserError`, without writing anything, if
    the folder belongs to something else."""
    owner = annotation_of(source)
    check_owner(run.store.root, owner)
    with annotation_lock(run, "an annotation"):
        claim(run.store.root, owner)
        yield
