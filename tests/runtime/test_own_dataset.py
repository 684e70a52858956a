"""The rows of a user's file come back in order, each with the annotation of its text, also after a re-annotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tasks.config import load_config
from tasks.rows import Given, Reason, Reject, Role, Tier
from tasks.runtime.driver import Run
from tasks.runtime.new_version import twin_of, with_twins
from tasks.runtime.own_dataset import as_given, summary, toy_notice
from tasks.runtime.reannotation import Review
from tasks.storage.artifacts import Store
from tasks.storage.dataset import read_dataset, write_dataset
from tasks.storage.manifest import StageCount
from tasks.uncertainty.annotation import Cause
from tests.storage.test_dataset import example, manifest, samples

ONE, TWO = (
    example(number, role=Role.GIVEN, answer=str(number + 1), majority_correct=True) for number in (1, 2)
)


def given(position: int, problem: str, row_id: str, answer: str | None, extra: str | None = None) -> Given:
    return Given(
        id=row_id, problem_id=problem, position=position, source_id=f"q{position}", tier=Tier.HARD, answer=answer, extra=extra
    )  # fmt: skip


GIVEN = [
    given(2, ONE.id, "b" * 32, "7", '{"topic": "sets"}'),
    given(0, TWO.id, TWO.id, "3"),
    given(1, ONE.id, ONE.id, "2"),
    given(3, ONE.id, "a" * 32, None),
    given(4, "rejected", "rejected", "5"),
]


def test_every_row_comes_back_in_order_with_its_own_columns(tmp_path: Path) -> None:
    responses = {row.id: samples(row) for row in (ONE, TWO)}
    rows, copies = as_given({ONE.id: ONE, TWO.id: TWO}, responses, GIVEN)
    assert [row.id for row in rows] == [TWO.id, ONE.id, "b" * 32, "a" * 32]
    assert [row.source_id for row in rows] == ["q0", "q1", "q2", "q3"]
    assert [(row.answer, row.majority_correct) for row in rows] == [
        ("3", True),
        ("2", True),
        ("7", False),
        (None, None),
    ]
    assert [row.extra for row in rows] == [None, None, '{"topic": "sets"}', None]
    assert {row.tier for row in rows} == {Tier.HARD} and [row.weight for row in rows] == [0.75] * 4
    write_dataset(tmp_path / "dataset", {"train": rows[::-1]}, {"train": copies}, manifest())
    written, answers = read_dataset(tmp_path / "dataset")
    assert written == rows
    assert [row.text for row in answers if row.problem_id == "b" * 32] == [row.text for row in samples(ONE)]


def test_the_summary_counts_rows_and_problems_and_names_the_rows_of_rejects() -> None:
    counts = [
        StageCount(stage="problems", rows_in=3, kept=3),
        StageCount(stage="sample", rows_in=3, kept=2, rejected={"prompt_too_long": 1}),
    ]
    reject = Reject(
        problem_id="rejected", stage="sample", reason=Reason.PROMPT_TOO_LONG, detail="9,000 tokens"
    )
    rows, _ = as_given({ONE.id: ONE, TWO.id: TWO}, {ONE.id: [], TWO.id: []}, GIVEN)
    lines = summary(counts, sorted(GIVEN, key=lambda row: row.position), rows, [reject])
    assert lines[:3] == [
        "5 rows with 3 different problems in, 4 rows annotated, 1 problem rejected",
        "rejected by sample: 1 prompt too long",
        "  row 5: prompt too long: 9,000 tokens (rejected)",
    ]
    assert lines[-1] == "the majority answer is right for 2 of 3 problems with an answer"


@pytest.mark.parametrize(
    ("teacher", "toy"),
    [
        ("pocket/teacher", True),
        ("./pocket/student", True),
        ("Qwen/Qwen3-8B", False),
        ("pocket-lab/model", False),
    ],
)
def test_a_teacher_of_the_pocket_world_is_announced_in_capitals(
    teacher: str, toy: bool, tmp_path: Path
) -> None:
    config = load_config("pocket", {"models.teacher.model": teacher})
    notice = toy_notice(Run(config=config, store=Store(tmp_path), identities={}))
    assert (notice is not None) is toy
    if notice is not None:
        assert f"THE TEACHER {teacher.upper()} IS A TOY" in notice and notice.partition("(docs")[0].isupper()


def review(causes: Mapping[str, Cause]) -> Review:
    twin = replace(ONE, id="b" * 32, answer="7")
    return Review(
        dataset=Path(), manifest=manifest(), recipe=cast("Any", None), rows={row.id: row for row in (TWO, ONE, twin)},
        new={}, given={}, causes=causes, answers=0,
    )  # fmt: skip


def test_of_stale_rows_with_one_text_one_is_sampled_and_both_are_annotated() -> None:
    stale = dict.fromkeys([ONE.id, TWO.id, "b" * 32], Cause.TEACHER)
    both = review(stale)
    assert [row.id for row in both.to_sample] == [TWO.id, ONE.id] and both.to_cluster == ()
    assert both.twins == {"b" * 32: ONE.id}
    reject = Reject(problem_id=ONE.id, stage="sample", reason=Reason.MODEL_ERROR)
    assert [row.problem_id for row in with_twins(both, [reject])] == [ONE.id, "b" * 32]
    fresh = replace(ONE, weight=0.25, majority_answer="7", majority_correct=False)
    twin = twin_of(both.rows["b" * 32], fresh)
    assert (twin.weight, twin.answer, twin.majority_correct, twin.id) == (0.25, "7", True, "b" * 32)


def test_rows_with_one_text_that_need_different_work_are_annotated_separately() -> None:
    mixed = review({ONE.id: Cause.TEACHER, "b" * 32: Cause.CLUSTERING})
    assert [row.id for row in mixed.to_sample] == [ONE.id] and [row.id for row in mixed.to_cluster] == [
        "b" * 32
    ]
    only = review({"b" * 32: Cause.TEACHER})
    assert [row.id for row in only.to_sample] == ["b" * 32] and only.twins == {}
