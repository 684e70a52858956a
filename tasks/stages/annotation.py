"""Shared parts of all annotation runs: their models and the lock of the output folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tasks.config import PROJECT_ROOT, load_config
from tasks.llm.chat_templates import role_identity
from tasks.runtime.driver import Run
from tasks.runtime.live import Live
from tasks.runtime.preflight import ANNOTATORS, Work, output_folder, require_ready
from tasks.stages.failure import check_block
from tasks.stages.opening import checking, folder_lock
from tasks.storage.artifacts import Store
from tasks.storage.ownership import annotation_of, check_owner, claim


def open_annotation(
    profile: str, overrides: Mapping[str, Any] | None, root: Path | None = None, work: Work = "annotate"
) -> Run:
    """Open a run of the stages `sample` and `cluster` only, into `root` (default: the profile's output folder).

    Sources, evolver, quality judge and training are not checked. Raises `UserError` as `tasks.stages.opening.open_run` does.
    """
    config = load_config(profile, overrides)
    root = output_folder(config) if root is None else PROJECT_ROOT / root
    with checking():
        check_block(config)
        require_ready(config, work, root=root)
    identities = {
        name: role_identity(role, PROJECT_ROOT)
        for name in ANNOTATORS
        for role in [getattr(config.models, name)]
    }
    return Run(config=config, store=Store(root), identities=identities, live=Live("annotate-"))


def annotation_lock(run: Run, what: str) -> AbstractContextManager[None]:
    """Lock the output folder for a block. Raises `UserError` if another run holds the lock for longer than `run.lock_wait_s`."""
    return folder_lock(run.config, run.store.root, what)


@contextmanager
def own_output(run: Run, source: str) -> Iterator[None]:
    """Lock the output folder of an annotation of the file `source` for a block. Raises `UserError`, without writing anything, if
    the folder belongs to something else."""
    owner = annotation_of(source)
    check_owner(run.store.root, owner)
    with annotation_lock(run, "an annotation"):
        claim(run.store.root, owner)
        yield
