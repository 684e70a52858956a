"""What every run that annotates knows: its two models, the recipe of an annotation, and that it is alone in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from prompts import load_prompt
from tasks.core.annotation import AnnotationRecipe
from tasks.core.config import PROJECT_ROOT, load_config
from tasks.core.identity import fingerprint
from tasks.io.artifacts import Store
from tasks.io.dataset import Teacher
from tasks.io.identity import model_identity
from tasks.io.locks import alone
from tasks.io.servers import free_port
from tasks.io.tokenizer_identity import tokenizer_identity
from tasks.stages import cluster, sample
from tasks.stages.driver import Run

ROLES = ("teacher", "equivalence_judge")


def open_annotation(profile: str, overrides: Mapping[str, Any] | None, root: Path | None = None) -> Run:
    """The run of stages `sample` and `cluster` alone, into `root` (by default the profile's output folder): nothing is asked
    of sources, evolver, quality judge and training. `UserError` as in `tasks.stages.opening.open_run`."""
    config = load_config(profile, overrides)
    root = root or config.run.output
    identities = {}
    for name in ROLES:
        role = getattr(config.models, name)
        identities[name] = model_identity(role.model, role.revision, PROJECT_ROOT)
        if role.serve is not None and role.serve.port is not None:
            free_port(role.serve)
    return Run(config=config, store=Store(PROJECT_ROOT / root), identities=identities)


def alone_in(run: Run, what: str) -> AbstractContextManager[None]:
    """Two runs that annotate into one folder do not overlap: `UserError` at once for the second."""
    return alone(run.store.root / "annotation.lock", what)


def annotation_recipe(run: Run) -> AnnotationRecipe:
    """How this run annotates. Without a judge's part, a cluster hangs on all of the stage's settings but its sampling."""
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
    """Who is sampled and how, for the manifest."""
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
