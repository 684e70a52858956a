"""Shared parts of all annotation runs: their models, the annotation recipe, and the lock of the output folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from prompts import load_prompt
from tasks.config import PROJECT_ROOT, load_config
from tasks.identity import fingerprint
from tasks.llm.model_identity import model_identity
from tasks.llm.servers import free_port
from tasks.llm.tokenizer_identity import tokenizer_identity
from tasks.runtime.driver import Run
from tasks.stages import cluster, sample
from tasks.storage.artifacts import Store
from tasks.storage.locks import alone
from tasks.storage.manifest import Teacher
from tasks.uncertainty.annotation import AnnotationRecipe

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


def annotation_recipe(run: Run) -> AnnotationRecipe:
    """Return the annotation recipe of this run.

    Clusters that were formed without the judge depend on all settings of stage cluster except for the judge's sampling.
    """
    sampling, judged = sample.sample_stage(run), cluster.cluster_stage(run)
    settings = run.config.cluster.identity()
    symbolic = {name: value for name, value in settings.items() if name != "sampling"}
    return AnnotationRecipe(
        sampling=sampling.recipe,
        symbolic=fingerprint(stage=judged.name, version=judged.version, settings=symbolic),
        judged=judged.recipe,
        teacher=run.identities["teacher"],
        teacher_prompt=load_prompt(sample.PROMPT).fingerprint,
        judge=run.identities["equivalence_judge"],
        judge_prompt=load_prompt(cluster.PROMPT).fingerprint,
    )


def teacher_of(run: Run) -> Teacher:
    """Describe the teacher and its sampling settings, for the manifest."""
    role, sampling = run.config.models.teacher, run.config.sample.sampling
    files = tokenizer_identity(role.model, role.revision, PROJECT_ROOT)
    return Teacher(
        model=run.identities["teacher"],
        prompt=load_prompt(sample.PROMPT).fingerprint,
        tokenizer=files.tokenizer,
        chat_template=files.chat_template,
        num_samples=run.config.sample.num_samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        thinking=role.thinking,
        logprobs=run.config.sample.logprobs,
        scope=run.config.cluster.scope,
    )
