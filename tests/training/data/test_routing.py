"""The choice of teachers by hand, the annotations that it reads, and what a run with several teachers refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.errors import UserError
from tests.training.small_run import (
    copy_model,
    edit_weights,
    example,
    rewrite,
    set_values,
    settings,
    small_run,
    teacher,
    write_small_dataset,
)
from training.config import RunConfig, run_from
from training.data.routing import Routing, highest_weight, in_proportion, named
from training.plan import resolve
from training.preflight.algorithm_checks import algorithm_problems
from training.preflight.check import Prepared, inspect, prepare
from training.preflight.memory import placement_of

A, B = (0.75, 0.5, 0.0, 0.25), (0.25, 0.5, 0.0, 0.75)
ENTROPY = 1.3862943611198906  # log 4


def test_the_highest_weight_teaches_and_ties_go_to_the_first() -> None:
    weights = np.array([[0.2, 0.7, 0.7], [0.5, 0.5, 0.4], [0.0, 0.0, 0.0], [0.1, 0.2, 0.9]])
    assert highest_weight(weights).tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]


def test_a_mixture_is_in_proportion_to_the_weights_and_equal_without_any() -> None:
    weights = np.array([[0.6, 0.2], [0.0, 0.5], [0.0, 0.0], [0.3, 0.3]])
    expected = [[0.75, 0.25], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]]
    np.testing.assert_allclose(in_proportion(weights), expected, rtol=1e-15)


def test_a_column_names_the_teacher_and_other_values_are_refused_with_their_rows() -> None:
    shares = named(("a", "b"), {"x": "b", "y": "a"}, ["x", "y"], "by")
    assert shares.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(UserError, match=r"2 rows \(y, z\) in column 'by' have other values .*such as None"):
        named(("a", "b"), {"x": "b", "y": None, "z": "c"}, ["x", "y", "z"], "by")


def test_shares_and_mean_weights_by_hand() -> None:
    routing = Routing(
        names=("a", "b"),
        shares=np.array([[1.0, 0.0], [0.25, 0.75], [1.0, 0.0]]),
        weights=np.array([[0.8, 0.1], [0.4, 0.6], [0.2, np.nan]]),
    )
    assert routing.summary() == {
        "a": {"share": pytest.approx(0.75), "weight": pytest.approx((0.8 + 0.25 * 0.4 + 0.2) / 2.25)},
        "b": {"share": pytest.approx(0.25), "weight": pytest.approx(0.6)},
    }
    assert routing.summary([0, 2])["b"] == {"share": 0.0}  # teaches neither
    assert routing.digest() != routing.select([0, 2]).digest()


# --- of a run ----------------------------------------------------------------------------------------------------


def annotated(folder: Path, weights: Sequence[float], **manifest: Any) -> Path:
    rows = [
        example(n, weight=weight, semantic_entropy=ENTROPY * (1 - weight)) for n, weight in enumerate(weights)
    ]
    return write_small_dataset(folder, rows, teacher(**manifest))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return annotated(tmp_path / "a", A), annotated(tmp_path / "b", B)


def run_of(dataset: Path, annotation: Path, routing: Any = "lowest_entropy", /, **changes: Any) -> RunConfig:
    basic = settings(dataset, **{"batches": {"size": 4, "total_prompts": 4}, **changes})
    basic["teachers"] = [
        {"name": "a", "model": "pocket/teacher"},
        {"name": "b", "model": "pocket/teacher", "annotation": str(annotation)},
    ]
    return run_from({**basic, "teacher": None, "routing": routing}, "test")


def test_each_prompt_has_the_columns_of_its_teacher(two: tuple[Path, Path]) -> None:
    made = prepare(run_of(*two))
    assert made.routing is not None
    assert made.routing.shares.tolist() == [[1, 0], [1, 0], [1, 0], [0, 1]]
    assert [row.weight for row in made.rows] == [0.75, 0.5, 0.0, 0.75]
    assert [row.semantic_entropy for row in made.rows] == pytest.approx(
        [0.25 * ENTROPY, 0.5 * ENTROPY, ENTROPY, 0.25 * ENTROPY]
    )
    assert len(made.teachers) == 2 and made.plan.teacher_names == ("teachers.a", "teachers.b")


def test_a_mixture_has_the_mean_weight_by_its_shares(two: tuple[Path, Path]) -> None:
    made = prepare(run_of(*two, "weighted"))
    assert made.routing is not None
    expected = [[0.75, 0.25], [0.5, 0.5], [0.5, 0.5], [0.25, 0.75]]
    np.testing.assert_allclose(made.routing.shares, expected, rtol=1e-15)
    mean = 0.75 * 0.75 + 0.25 * 0.25
    assert [row.weight for row in made.rows] == pytest.approx([mean, 0.5, 0.0, mean])


def test_one_teacher_keeps_its_fingerprint_and_routings_differ(two: tuple[Path, Path]) -> None:
    plain = small_run(two[0], batches={"size": 4, "total_prompts": 4})
    assert not {"teachers", "routing"} & plain.identity().keys()
    prints = [prepare(run).fingerprint for run in (plain, run_of(*two), run_of(*two, "weighted"))]
    assert len(set(prints)) == 3


def add_column(folder: Path, name: str, values: Sequence[Any]) -> None:
    rewrite(folder, lambda table: table.append_column(name, pa.array(values)))


def test_a_column_of_the_dataset_routes(two: tuple[Path, Path]) -> None:
    add_column(two[0], "by", ["b", "a", "b", "b"])
    made = prepare(run_of(*two, {"kind": "column", "column": "by"}))
    assert [row.weight for row in made.rows] == [0.25, 0.5, 0.0, 0.75]
    found = inspect(run_of(*two, {"kind": "column", "column": "who"}))
    assert "has no column 'who', which teachers or routing name: correct its name" in found.problems[0]


def weights_in_column(dataset: Path, /, **changes: Any) -> RunConfig:
    given = settings(dataset, batches={"size": 2, "total_prompts": 4}, **changes)
    teachers = [
        {"name": "a", "model": "pocket/teacher"},
        {"name": "b", "model": "pocket/teacher", "weight_column": "of_b"},
    ]
    return run_from({**given, "teacher": None, "teachers": teachers, "routing": "lowest_entropy"}, "test")


def test_weights_in_a_column_need_allow_mismatch(tmp_path: Path) -> None:
    dataset = annotated(tmp_path / "a", A)
    add_column(dataset, "of_b", [0.9, 0.4, 0.1, 0.2])
    (problem,) = inspect(weights_in_column(dataset)).problems
    assert problem.startswith("teachers.b: it is not known which teacher the column of its weights")
    allowed = {"folder": str(dataset), "allow_mismatch": True}
    made = prepare(weights_in_column(dataset, dataset=allowed))
    assert [row.weight for row in made.rows] == [0.9, 0.5, 0.1, 0.25]
    assert made.rows[0].semantic_entropy is None and made.rows[1].semantic_entropy is not None
    add_column(dataset, "of_c", [0.9, 0.4, 1.5, 0.2])
    rewrite(dataset, lambda table: table.drop(["of_b"]).rename_columns({"of_c": "of_b"}))
    (problem,) = inspect(weights_in_column(dataset, dataset=allowed)).problems
    assert f"row {2:032x} has 1.5 in column 'of_b', the weights of teacher b: give a number from 0" in problem


def test_the_annotation_must_have_the_same_problems(two: tuple[Path, Path], tmp_path: Path) -> None:
    short = annotated(tmp_path / "short", B[:2])
    (problem,) = inspect(run_of(two[0], short)).problems
    assert f"{short} lacks 2 rows ({2:032x}, {3:032x}) of the dataset: annotate the same" in problem
    set_values(two[1], 1, {"problem": "What is 2 + 2?"})
    (problem,) = inspect(run_of(*two)).problems
    assert f"{two[1]} has another text of 1 row ({1:032x}) of the dataset" in problem


def test_each_annotation_must_be_that_of_its_teacher(two: tuple[Path, Path], tmp_path: Path) -> None:
    other = annotated(tmp_path / "other", B, model="other:0123456789abcdef")
    (problem,) = inspect(run_of(two[0], other)).problems
    assert problem.startswith("teachers.b: the dataset was annotated with teacher other:0123456789abcdef")
    prepare(run_of(two[0], other, dataset={"folder": str(two[0]), "allow_mismatch": True}))


def test_all_problems_of_the_settings_are_one_sentence(two: tuple[Path, Path]) -> None:
    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=match):
            run_from({**settings(two[0]), "teacher": None, **changes}, "test")

    one, other = ({"name": name, "model": "pocket/teacher"} for name in "ab")
    there = {**other, "annotation": str(two[1])}
    refused("teachers is set without routing", teachers=[one, there])
    refused("routing is set without teachers", routing="weighted")
    refused("at least two teachers, each with a name", teachers=[one], routing="weighted")
    refused("at least two teachers, each with a name", teachers=[one, one], routing="weighted")
    refused("have neither annotation nor weight_column", teachers=[one, other], routing="weighted")
    refused("both annotation and weight_column", teachers=[one, {**there, "weight_column": "w"}], routing="weighted")  # fmt: skip
    refused("teacher and teachers are both set", teachers=[one, there], routing="weighted", teacher={"model": "t"})  # fmt: skip


@pytest.mark.parametrize("name", ["grpo", "sft", "kd", "uopd_grpo", "opsd"])
def test_methods_without_a_teacher_of_rollouts_refuse_several(name: str) -> None:
    problems = algorithm_problems(resolve(run_of(Path("a"), Path("b"), algorithm={"name": name})))
    assert (
        f"{name} has no rollouts of the student that a teacher scores, so it cannot have teachers: remove teachers and routing"
        in problems
    )


def test_answer_shares_need_one_teacher() -> None:
    run = run_of(Path("a"), Path("b"), algorithm={"rollout_weight": "answer_share"})
    (problem,) = algorithm_problems(resolve(run))
    assert problem.startswith(
        "algorithm.rollout_weight answer_share compares answers with the clusters of one"
    )


@pytest.mark.parametrize(
    "name", ["uopd", "opd", "opd_rkl", "eopd", "reopold", "core", "uopd_pw", "uopd_eopd", "self_distilled_reasoner"]
)  # fmt: skip
@pytest.mark.parametrize("routing", ["lowest_entropy", "weighted"])
def test_every_method_with_a_teacher_of_rollouts_has_a_plan(name: str, routing: str) -> None:
    plan = resolve(
        run_of(Path("a"), Path("b"), routing, algorithm={"name": name}, rollouts={"group_size": 2})
    )
    assert algorithm_problems(plan) == [] and plan.mixes == (routing == "weighted")
    assert [(slot.role, slot.model) for slot in placement_of(plan).slots if slot.role == "teacher"] == [
        ("teacher", 0), ("teacher", 1),
    ]  # fmt: skip


def test_a_damaged_teacher_is_named(two: tuple[Path, Path], tmp_path: Path) -> None:
    model = copy_model("teacher", tmp_path / "model")
    edit_weights(model, lambda tensors: tensors.pop("model.norm.weight"))
    run = run_of(*two, dataset={"folder": str(two[0]), "allow_mismatch": True})
    teachers = (run.teachers[0], run.teachers[1].model_copy(update={"model": str(model)}))
    problems = inspect(run.model_copy(update={"teachers": teachers})).problems
    assert any(one.startswith("teachers.b.model:") and "model.norm.weight" in one for one in problems)


def test_the_memory_of_two_teachers_is_that_of_one_twice(two: tuple[Path, Path]) -> None:
    def parts(made: Prepared, owner: str) -> list[tuple[str, int]]:
        (device,) = made.memory.devices
        return [(part.what, part.bytes) for part in device.parts if part.owner == owner]

    single = parts(prepare(small_run(two[0])), "teacher")
    made = prepare(run_of(*two))
    assert parts(made, "teacher 1") == parts(made, "teacher 2") == single
