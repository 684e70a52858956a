"""What identifies an annotation: its recipe, its teacher and its settings."""

from __future__ import annotations

import json
from typing import Any

from prompts import load_prompt
from tasks.config import PROJECT_ROOT
from tasks.identity import fingerprint
from tasks.llm.chat_templates import given_template, role_date
from tasks.llm.model_identity import model_identity
from tasks.llm.tokenizer_identity import tokenizer_identity
from tasks.runtime.clustering import cluster_stage
from tasks.runtime.driver import Run
from tasks.runtime.equivalence_judge import PROMPT as JUDGE_PROMPT
from tasks.runtime.sampling import PROMPT as TEACHER_PROMPT
from tasks.runtime.sampling import sample_stage
from tasks.storage.manifest import Teacher
from tasks.uncertainty.annotation import AnnotationRecipe


def annotation_recipe(run: Run) -> AnnotationRecipe:
    """Return the annotation recipe of this run.

    Clusters that were formed without the judge depend on all settings of stage cluster except for the judge's sampling.
    """
    sampling, judged = sample_stage(run), cluster_stage(run)
    settings = run.config.cluster.identity()
    symbolic = {name: value for name, value in settings.items() if name != "sampling"}
    return AnnotationRecipe(
        sampling=sampling.recipe,
        symbolic=fingerprint(stage=judged.name, version=judged.version, settings=symbolic),
        judged=judged.recipe,
        teacher=run.identities["teacher"],
        teacher_prompt=load_prompt(TEACHER_PROMPT).fingerprint,
        judge=run.identities["equivalence_judge"],
        judge_prompt=load_prompt(JUDGE_PROMPT).fingerprint,
    )


def teacher_of(run: Run) -> Teacher:
    """Describe the teacher and its sampling settings, for the manifest."""
    role, sampling = run.config.models.teacher, run.config.sample.sampling
    given = given_template(role, PROJECT_ROOT)
    files = tokenizer_identity(role.model, role.revision, PROJECT_ROOT, given)
    day = role_date(role, PROJECT_ROOT)
    return Teacher(
        model=model_identity(role.model, role.revision, PROJECT_ROOT),
        prompt=load_prompt(TEACHER_PROMPT).fingerprint,
        tokenizer=files.tokenizer,
        chat_template=files.chat_template,
        num_samples=run.config.sample.num_samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        thinking=role.thinking,
        logprobs=run.config.sample.logprobs,
        scope=run.config.cluster.scope,
        template_date=None if day is None else day.isoformat(),
    )


def annotation_settings(run: Run) -> dict[str, Any]:
    """Return the settings that an annotation depends on, as plain JSON data."""
    config = run.config
    models = {name: getattr(config.models, name).identity() for name in run.identities}
    settings = {"sample": config.sample.identity(), "cluster": config.cluster.identity(), "models": models}
    return json.loads(json.dumps(settings))
