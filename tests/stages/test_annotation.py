"""A change of anything that an annotation depends on makes exactly the rows that depend on it stale."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.config import load_config
from tasks.errors import UserError
from tasks.rows import Example
from tasks.runtime import annotation_identity, clustering, equivalence_judge, sampling
from tasks.runtime.annotation_identity import annotation_recipe
from tasks.runtime.driver import Run
from tasks.stages.annotation import annotation_lock, open_annotation
from tasks.storage.artifacts import Store
from tasks.storage.examples import ANNOTATION_COLUMNS, reannotated
from tasks.uncertainty.annotation import Cause, stale_rows
from tests.storage.test_dataset import example

IDENTITIES = {"teacher": "teacher:1", "equivalence_judge": "judge:1"}


def run_with(
    overrides: dict[str, Any] | None = None, identities: dict[str, str] | None = None, root: Path = Path("x")
) -> Run:
    config = load_config("pocket", overrides)
    return Run(config=config, store=Store(root), identities=IDENTITIES | (identities or {}))


def annotated_by(run: Run) -> list[Example]:
    """A row without a judged pair, and a row with one."""
    recipe = annotation_recipe(run)
    common: dict[str, Any] = {"teacher_model": recipe.teacher, "teacher_prompt": recipe.teacher_prompt}
    plain = example(
        1,
        **common,
        sampling_fingerprint=recipe.sampling,
        annotation_fingerprint=recipe.fingerprint(judged=False),
    )
    judged = example(
        2, **common, sampling_fingerprint=recipe.sampling, annotation_fingerprint=recipe.fingerprint(judged=True),
        equivalence_judge_model=recipe.judge, equivalence_judge_prompt=recipe.judge_prompt,
    )  # fmt: skip
    return [plain, judged]


PLAIN, JUDGED = (f"{number:032x}" for number in (1, 2))


@pytest.mark.parametrize(
    ("overrides", "identities", "stale"),
    [
        ({}, {}, {}),
        ({}, {"teacher": "teacher:2"}, {PLAIN: Cause.TEACHER, JUDGED: Cause.TEACHER}),
        ({}, {"equivalence_judge": "judge:2"}, {JUDGED: Cause.JUDGE}),
        ({"sample.num_samples": 16}, {}, {PLAIN: Cause.SAMPLING, JUDGED: Cause.SAMPLING}),
        ({"sample.sampling.temperature": 0.8}, {}, {PLAIN: Cause.SAMPLING, JUDGED: Cause.SAMPLING}),
        ({"sample.logprobs": "tempered"}, {}, {PLAIN: Cause.SAMPLING, JUDGED: Cause.SAMPLING}),
        ({"models.teacher.thinking": True}, {}, {PLAIN: Cause.SAMPLING, JUDGED: Cause.SAMPLING}),
        ({"cluster.unparsed": "one"}, {}, {PLAIN: Cause.CLUSTERING, JUDGED: Cause.CLUSTERING}),
        ({"cluster.judge": "judge_all"}, {}, {PLAIN: Cause.CLUSTERING, JUDGED: Cause.CLUSTERING}),
        ({"cluster.sampling.max_tokens": 64}, {}, {JUDGED: Cause.CLUSTERING}),
        ({"models.equivalence_judge.dtype": "bfloat16"}, {}, {JUDGED: Cause.CLUSTERING}),
        # annotations do not depend on resources, paths and the other stages
        ({"models.teacher.serve.max_num_seqs": 8, "models.teacher.concurrency": 1}, {}, {}),
        ({"run.output": "elsewhere", "run.shard_rows": 7, "run.cpu_workers": 1}, {}, {}),
        ({"evolve.seed": 5, "select.target": 10, "dedup.threshold": 0.5, "export.name": "x"}, {}, {}),
        ({"models.quality_judge.dtype": "bfloat16", "models.evolver.thinking": True}, {}, {}),
    ],
)
def test_a_changed_setting_makes_exactly_the_right_rows_stale(
    overrides: dict[str, Any], identities: dict[str, str], stale: dict[str, Cause]
) -> None:
    rows = annotated_by(run_with())
    assert stale_rows(rows, annotation_recipe(run_with(overrides, identities))) == stale


@pytest.mark.parametrize(
    ("prompt", "stale"),
    [
        (sampling.PROMPT, {PLAIN: Cause.TEACHER_PROMPT, JUDGED: Cause.TEACHER_PROMPT}),
        (equivalence_judge.PROMPT, {JUDGED: Cause.JUDGE_PROMPT}),
        ("judge/quality", {}),
    ],
)
def test_a_changed_prompt_makes_the_rows_that_used_it_stale(
    monkeypatch: pytest.MonkeyPatch, prompt: str, stale: dict[str, Cause]
) -> None:
    rows = annotated_by(run_with())
    known = {
        name: annotation_identity.load_prompt(name) for name in (sampling.PROMPT, equivalence_judge.PROMPT)
    }
    changed = SimpleNamespace(fingerprint="another")
    for module in (sampling, clustering, annotation_identity):
        monkeypatch.setattr(module, "load_prompt", lambda name: changed if name == prompt else known[name])
    assert stale_rows(rows, annotation_recipe(run_with())) == stale


@pytest.mark.parametrize(
    ("module", "cause"),
    [(sampling, Cause.SAMPLING), (clustering, Cause.CLUSTERING)],
    ids=["sample", "cluster"],
)
def test_a_new_code_version_of_a_stage_makes_all_rows_stale(
    monkeypatch: pytest.MonkeyPatch, module: Any, cause: Cause
) -> None:
    rows = annotated_by(run_with())
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert stale_rows(rows, annotation_recipe(run_with())) == {PLAIN: cause, JUDGED: cause}
    assert cause.needs_samples is (module is sampling)


def test_a_row_without_an_annotation_fingerprint_is_stale() -> None:
    recipe = annotation_recipe(run_with())
    assert recipe.why_stale(example(1)) is Cause.UNKNOWN
    assert Cause.UNKNOWN.needs_samples and Cause.NEW.needs_samples
    assert set(recipe.fingerprints) == {"sampling", "annotation", "annotation_judged"}
    assert len(set(recipe.fingerprints.values())) == 3


def test_a_row_annotated_again_keeps_the_columns_of_the_problem() -> None:
    names = {field.name for field in fields(Example)}
    own = names - ANNOTATION_COLUMNS
    assert own == {
        "id", "problem", "tier", "role", "source", "source_id", "licence", "root_id", "parent_id", "round", "strategies",
        "answer", "benchmark_root", "benchmark_overlap", "overlap_benchmarks", "overlap_kinds", "evolver_model",
        "evolver_prompt", "quality_judge_model", "quality_judge_prompt", "position", "extra",
        "solution",
    }  # fmt: skip
    old, fresh = example(1), replace(example(2, curated=True), weight=0.5, cluster_labels=(0, 0))
    new = reannotated(old, fresh)
    assert all(getattr(new, name) == getattr(old, name) for name in own)
    assert all(getattr(new, name) == getattr(fresh, name) for name in ANNOTATION_COLUMNS)


def test_an_annotation_run_does_not_check_evolver_and_sources(tmp_path: Path) -> None:
    overrides = {"models.evolver.model": "pocket/nobody", "aggregate.sources": [{"kind": "nothing"}]}
    run = open_annotation("pocket", overrides, tmp_path)
    assert set(run.identities) == {"teacher", "equivalence_judge"} and run.store.root == tmp_path
    with pytest.raises(UserError, match="pocket/nobody does not exist"):
        open_annotation("pocket", {"models.teacher.model": "pocket/nobody"}, tmp_path)


def test_two_runs_do_not_annotate_into_one_folder_at_once(tmp_path: Path) -> None:
    run = run_with(root=tmp_path)
    with annotation_lock(run, "a re-annotation"):
        with (
            pytest.raises(UserError, match="a re-annotation is already running"),
            annotation_lock(run, "an annotation"),
        ):
            pass
        with annotation_lock(run_with(root=tmp_path / "other"), "an annotation"):
            pass
    with annotation_lock(run, "an annotation"):
        pass
