"""Experiment files: cells in order, what a key depends on, and one sentence for every mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from training.algorithms import opd
from training.experiments.cell import Cell, nested
from training.experiments.grid import EXPERIMENTS, cells_of, experiment_path, load_experiment, row_cells

ROWS: list[dict[str, Any]] = [
    {"label": "Student", "baseline": "student"},
    {"label": "OPD", "algorithm": "opd", "changes": {"algorithm.top_k": 64}},
    {"label": "GRPO", "algorithm": "grpo"},
]


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump({"title": "t", "seeds": [3, 1], "rows": ROWS, **changes}))
    return path


def test_one_seed_of_everything_comes_before_the_second(tmp_path: Path) -> None:
    cells = cells_of(load_experiment(written(tmp_path)))
    assert [(cell.algorithm or cell.baseline, cell.seed) for cell in cells] == [
        ("student", 0), ("opd", 3), ("grpo", 3), ("opd", 1), ("grpo", 1),
    ]  # fmt: skip


def test_a_cell_that_two_rows_declare_is_measured_once(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[1], "label": "OPD again"}]
    experiment = load_experiment(written(tmp_path, rows=rows))
    assert len(cells_of(experiment)) == 5
    assert [cell.key for cell in row_cells(experiment, experiment.rows[1])] == [
        cell.key for cell in row_cells(experiment, experiment.rows[3])
    ]


def test_the_changes_of_a_row_lie_over_the_common_ones(tmp_path: Path) -> None:
    common = {"algorithm.top_k": 16, "optimizer.learning_rate": 1e-3}
    experiment = load_experiment(written(tmp_path, common=common, rows=ROWS[1:2]))
    run = cells_of(experiment)[0].settings().run
    assert (run["algorithm"], run["optimizer"]) == ({"name": "opd", "top_k": 64}, {"learning_rate": 1e-3})
    assert run["seed"] == 3 and run["student"] == {"model": "pocket/student"}


def test_the_algorithm_of_the_profile_reaches_no_cell() -> None:
    assert Cell(profile="pocket", algorithm="uopd").settings().run["algorithm"] == {"name": "uopd"}
    assert Cell(profile="pocket", algorithm="grpo").key != Cell(profile="pocket", algorithm="sft").key


BASE = Cell(profile="pocket", algorithm="opd", changes={"batches.total_prompts": 32}, seed=1)


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, seed=2),
        replace(BASE, algorithm="uopd"),
        replace(BASE, changes={"batches.total_prompts": 48}),
        replace(BASE, changes={**BASE.changes, "algorithm.top_k": 64}),
        replace(BASE, changes={**BASE.changes, "evaluation.samples": 8}),
        replace(BASE, changes={**BASE.changes, "dataset.folder": "output/other"}),
        replace(BASE, changes={**BASE.changes, "student.model": "pocket/teacher"}),
    ],
)
def test_a_setting_that_changes_the_result_changes_the_key(other: Cell) -> None:
    assert other.key != BASE.key and len(BASE.key) == 16 and int(BASE.key, 16) >= 0


def test_the_models_and_annotations_of_several_teachers_are_part_of_the_key() -> None:
    def routed(model: str, annotation: str) -> Cell:
        teachers = [
            {"name": "a", "model": "pocket/teacher"},
            {"name": "b", "model": model, "annotation": annotation},
        ]
        changes = {"teacher": None, "teachers": teachers, "routing": "lowest_entropy"}
        return replace(BASE, changes=changes)

    cells = [routed("m", "output/m"), routed("other", "output/m"), routed("m", "output/other")]
    assert len({cell.key for cell in cells}) == 3 and routed("m", "output/m").key == cells[0].key


def test_a_new_version_of_an_algorithm_changes_its_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: Cell(profile="pocket", algorithm=name).key for name in ("opd", "grpo")}
    monkeypatch.setattr(opd, "ALGORITHM", replace(opd.ALGORITHM, version=2))
    after = {name: Cell(profile="pocket", algorithm=name).key for name in ("opd", "grpo")}
    assert after["opd"] != before["opd"] and after["grpo"] == before["grpo"]


@pytest.mark.parametrize(
    "same",
    [
        {"batches.total_prompts": 32, "trainer.zero_stage": 2},  # resources
        {"batches.total_prompts": 32, "checkpoints.every": 5},
        {"batches.total_prompts": 32, "rollouts.temperature": 1.0},  # the default
        {"batches.total_prompts": 32, "dataset.solutions": "gold"},  # not used by this algorithm
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_key(same: dict[str, Any]) -> None:
    assert replace(BASE, changes=same).key == BASE.key


def test_a_baseline_depends_on_its_model_and_on_the_evaluation_only() -> None:
    student = Cell(profile="pocket", baseline="student")
    assert student.key != Cell(profile="pocket", baseline="teacher").key
    trained = {"batches.total_prompts": 8, "optimizer.learning_rate": 1.0, "evaluation.every_steps": 3}
    assert replace(student, changes=trained).key == student.key
    assert replace(student, changes={"evaluation.samples": 8}).key != student.key
    assert replace(student, changes={"lengths.max_response_tokens": 100}).key != student.key


def test_dotted_settings_become_a_tree() -> None:
    assert nested({"a.b": 1, "a.c.d": {"x": 2}, "e": 3}) == {"a": {"b": 1, "c": {"d": {"x": 2}}}, "e": 3}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"row": []}, ("trial.yaml: row", "unknown key")),
        ({"rows": []}, ("trial.yaml: rows",)),
        ({"seeds": [1, 1]}, ("seeds has a number twice",)),
        ({"rows": [{"label": "A"}]}, ("row 1, 'A'", "algorithm", "baseline")),
        (
            {"rows": [{"label": "A", "algorithm": "opd", "change": {}}]},
            ("row 1, 'A'", "change", "unknown key"),
        ),
        ({"rows": [ROWS[1], ROWS[1]]}, ("'OPD'", "two rows")),
        ({"rows": [{"label": "A; b", "algorithm": "opd"}]}, ("'A; b'", "semicolon")),
        ({"compare_to": "UOPD"}, ("'UOPD'", "no row")),
        ({"views": ["pie"]}, ("views",)),
        ({"base": "pocket/none"}, ("'pocket/none'", "does not exist", "pocket/learning")),
        ({"base": "paper/uopd-main-4b"}, ("has a base itself", "'paper/uopd-main'")),
        ({"base": 3}, ("base",)),
        ({"base": "pocket/learning", "common": [1]}, ("common",)),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment(written(tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in ("trial.yaml", *words)), str(caught.value)


def test_a_base_gives_what_an_experiment_does_not_say(tmp_path: Path) -> None:
    base = load_experiment(experiment_path("pocket/learning"))
    own = {
        "title": "t",
        "base": "pocket/learning",
        "common": {"budget.max_tokens": 7, "evaluation.every_steps": None},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own | {"rows": ROWS}))
    found = load_experiment(tmp_path / "own.yaml")
    assert found.common == {**base.common, "budget.max_tokens": 7, "evaluation.every_steps": None}
    assert (found.profile, found.seeds) == (base.profile, base.seeds)
    assert [row.label for row in found.rows] == ["Student", "OPD", "GRPO"]
    assert (found.compare_to, found.columns, found.views, found.remarks) == (
        None,
        ("pass_at_1",),
        ("table",),
        (),
    )


def test_an_experiment_without_rows_has_the_table_of_its_base(tmp_path: Path) -> None:
    base = load_experiment(experiment_path("paper/uopd-main"))
    (tmp_path / "own.yaml").write_text("{title: t, base: paper/uopd-main, profile: paper-4b, seeds: [5]}")
    found = load_experiment(tmp_path / "own.yaml")
    assert (found.profile, found.seeds, found.title) == ("paper-4b", (5,), "t")
    for name in ("rows", "columns", "compare_to", "views", "common"):
        assert getattr(found, name) == getattr(base, name)


def test_two_experiments_that_are_the_base_of_each_other_are_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    for path, other in ((first, second), (second, first)):
        path.write_text(yaml.safe_dump({"title": "t", "base": str(other), "rows": ROWS}))
    with pytest.raises(UserError, match=r"first\.yaml: base is .*second\.yaml', which has a base itself"):
        load_experiment(first)


def test_a_file_that_is_missing_or_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist: choose one of .*pocket/learning"):
        load_experiment(experiment_path("pocket/none"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="is not a mapping"):
        load_experiment(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match="is not valid YAML"):
        load_experiment(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    "path", sorted((PROJECT_ROOT / EXPERIMENTS / "pocket").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_pocket_experiment_has_valid_settings(path: Path) -> None:
    cells = cells_of(load_experiment(path))
    assert len({cell.key for cell in cells}) == len(cells)
