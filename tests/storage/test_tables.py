"""Rows are written to Parquet and read back unchanged, with the same bytes each time; invalid values and files are reported."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import UserError
from tasks.rows import (
    Edge,
    Example,
    Problem,
    Reason,
    Reject,
    Response,
    Role,
    Selected,
    Strategy,
    Tier,
    Uncertainty,
    Verdict,
)
from tasks.storage.tables import (
    ROW_GROUP,
    iter_rows,
    later_columns,
    read_rows,
    read_table,
    schema,
    write_rows,
)


def problem(number: int, **changes: Any) -> Problem:
    plain = Problem(
        id=f"p{number}", text=f"What is {number} + 1? Ünïcode ∑", tier=Tier.HARD, source="s", source_id=str(number),
        licence="mit", role=Role.SEED, root_id=f"p{number}",
    )  # fmt: skip
    return replace(plain, **changes)


UNCERTAIN = Uncertainty(
    problem_id="p", semantic_entropy=0.1 + 0.2, weight=5e-324, discrete_entropy=1.7976931348623157e308, valid_entropy=None,
    intra_entropy=0.0, predictive_entropy=0.5, normalised_entropy=0.5, mean_logprob=-0.5, majority_share=2 / 3,
    sizes=(2, 4), entropy_by_size=(0.0, None), weight_by_size=(1.0, None), majority_correct=None, num_truncated=1,
    labels=(0, 1, 0), cluster_probs=(1 / 3, 2 / 3), cluster_answers=("\\frac{1}{2}", None), majority_answer="",
    num_samples=3, num_valid=2, judge_calls=0, order_flips=0, transitivity_violations=0, judge_model=None, judge_prompt=None,
)  # fmt: skip


def test_rows_are_read_back_equal_with_enums_tuples_nulls_and_every_bit_of_floats(
    tmp_path: Path,
) -> None:
    problems = [problem(1), problem(2, strategy=Strategy.COMPOSE, answer="", benchmark_root=True, round=5)]
    uncertain = [
        UNCERTAIN,
        replace(UNCERTAIN, labels=(), cluster_probs=(), cluster_answers=(), valid_entropy=0.0),
    ]
    write_rows(tmp_path / "p.parquet", Problem, problems)
    write_rows(tmp_path / "u.parquet", Uncertainty, uncertain)
    back = read_rows(tmp_path / "p.parquet", Problem)
    assert back == problems
    assert type(back[1].strategy) is Strategy and type(back[0].tier) is Tier
    assert read_rows(tmp_path / "u.parquet", Uncertainty) == uncertain


@pytest.mark.parametrize(
    "row_type", [Problem, Reject, Verdict, Response, Uncertainty, Selected, Edge, Example]
)
def test_every_row_type_has_a_schema_and_an_empty_table(tmp_path: Path, row_type: type) -> None:
    assert write_rows(tmp_path / "empty.parquet", row_type, []) == 0
    assert read_rows(tmp_path / "empty.parquet", row_type) == []
    assert schema(row_type).names == [field.name for field in fields_of(row_type)]


def test_the_schema_follows_the_annotations_including_nullability() -> None:
    found = schema(Uncertainty)
    assert found.field("problem_id") == pa.field("problem_id", pa.string(), nullable=False)
    assert found.field("valid_entropy") == pa.field("valid_entropy", pa.float64())
    assert found.field("labels").type == pa.list_(pa.field("element", pa.int64(), nullable=False))
    assert found.field("cluster_answers").type == pa.list_(pa.field("element", pa.string()))
    assert (
        schema(Problem).field("tier").type == pa.string()
        and schema(Problem).field("benchmark_root").type == pa.bool_()
    )


def test_an_unsupported_field_type_is_refused_by_name() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Odd:
        fine: int
        bad: dict

    with pytest.raises(TypeError, match=r"Odd\.bad has the type .*dict.*, which is not supported"):
        schema(Odd)


def test_the_same_rows_give_the_same_bytes_as_a_list_or_an_iterator(tmp_path: Path) -> None:
    rows = [problem(i) for i in range(2 * ROW_GROUP + 7)]
    write_rows(tmp_path / "a.parquet", Problem, rows)
    os.utime(tmp_path / "a.parquet", (0, 0))
    write_rows(tmp_path / "b.parquet", Problem, iter(rows))
    first, second = ((tmp_path / f"{name}.parquet").read_bytes() for name in "ab")
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()
    meta = pq.read_metadata(tmp_path / "a.parquet")
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [ROW_GROUP, ROW_GROUP, 7]
    assert meta.row_group(0).column(0).compression == "ZSTD" and b"pandas" not in (meta.metadata or {})


@pytest.mark.parametrize("batch", [1, 999, 5000])
def test_rows_are_read_in_order_for_any_batch_size(tmp_path: Path, batch: int) -> None:
    rows = [problem(i) for i in range(ROW_GROUP + 3)]
    write_rows(tmp_path / "a.parquet", Problem, rows)
    assert list(iter_rows(tmp_path / "a.parquet", Problem, batch)) == rows


@pytest.mark.parametrize(
    ("changes", "column", "what"),
    [
        ({"text": None}, "text", "missing"),
        ({"text": 7}, "text", "7 is not a valid string"),
        ({"text": "\ud800"}, "text", "surrogates"),
        ({"round": 2**70}, "round", "not a valid int64"),
        ({"round": "1"}, "round", "not a valid int64"),
    ],
)
def test_an_invalid_value_is_reported_with_column_and_row_and_leaves_no_file(
    tmp_path: Path, changes: dict[str, Any], column: str, what: str
) -> None:
    rows = [problem(i) for i in range(ROW_GROUP + 1)] + [problem(0, **changes)]
    with pytest.raises(ValueError, match=rf"a\.parquet: column {column}, row {ROW_GROUP + 1}: .*{what}"):
        write_rows(tmp_path / "a.parquet", Problem, rows)
    assert list(tmp_path.iterdir()) == []


def test_a_null_in_a_tuple_of_non_nullable_elements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"column labels, row 0: .*an element is missing"):
        write_rows(tmp_path / "u.parquet", Uncertainty, [replace(UNCERTAIN, labels=(0, None))])


def test_a_file_with_another_schema_is_refused_naming_file_and_column(tmp_path: Path) -> None:
    path = tmp_path / "selected.parquet"
    write_rows(path, Selected, [Selected(problem_id="p", split="train")])
    with pytest.raises(
        UserError, match=r"selected\.parquet has no column 'first_id', which Edge has.*delete its folder"
    ):
        read_rows(path, Edge)
    full = schema(Selected)
    for fields, what in [
        (
            [full.field("problem_id"), pa.field("split", pa.int64(), nullable=False)],
            "'split' as int64 not null",
        ),
        (
            [full.field("problem_id"), pa.field("split", pa.string())],
            "'split' as string, but Selected has 'split' as string not null",
        ),
        ([*full, pa.field("more", pa.int8())], "'more', which Selected does not have"),
        ([full.field("split"), full.field("problem_id")], "another order"),
    ]:
        pq.write_table(pa.schema(fields).empty_table(), path)
        with pytest.raises(UserError, match=what):
            read_rows(path, Selected)


def test_missing_and_damaged_files_are_user_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(UserError, match=r"File .*a\.parquet does not exist"):
        read_rows(path, Problem)
    write_rows(path, Problem, [problem(i) for i in range(50)])
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:8] + bytes(200) + whole[208:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.parquet cannot be read .*run the stage again"):
            read_rows(path, Problem)


def test_a_value_that_is_not_in_its_enum_is_reported_with_column_and_row(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    columns = {
        "problem_id": ["a", "b"],
        "stage": ["s", "s"],
        "reason": [Reason.ECHO, "bored"],
        "detail": ["", ""],
        "text": ["", ""],
    }
    pq.write_table(pa.table(columns, schema=schema(Reject)), path)
    with pytest.raises(UserError, match=r"r\.parquet: column reason, row 1: 'bored' is not a valid Reason"):
        read_rows(path, Reject)


def test_a_full_disk_is_reported_with_path_and_bytes_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"disk is full: .*a\.parquet needs at least [1-9][\d,]* bytes"):
        write_rows(tmp_path / "a.parquet", Problem, [problem(1)])
    assert list(tmp_path.iterdir()) == []


def test_a_filtered_table_is_written_with_the_same_bytes_as_its_rows(tmp_path: Path) -> None:
    problems = [
        problem(number, strategy=None if number % 3 else Strategy.HARDER, answer=None if number % 5 else "7")
        for number in range(2 * ROW_GROUP + 7)
    ]
    write_rows(tmp_path / "all.parquet", Problem, problems)
    keep = [number % 4 != 1 for number in range(len(problems))]
    kept = [row for row, stays in zip(problems, keep, strict=True) if stays]
    assert write_rows(tmp_path / "rows.parquet", Problem, kept) == len(kept)
    table = read_table(tmp_path / "all.parquet", Problem).filter(pa.array(keep))
    assert write_rows(tmp_path / "table.parquet", Problem, table) == len(kept)
    assert (tmp_path / "table.parquet").read_bytes() == (tmp_path / "rows.parquet").read_bytes()
    columns = read_table(tmp_path / "all.parquet", Problem, ("text", "id"))
    assert columns["id"].to_pylist() == [row.id for row in problems] and columns.num_columns == 2


def test_a_table_with_another_schema_is_refused_and_the_error_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the columns a do not match the schema of Problem"):
        write_rows(tmp_path / "p.parquet", Problem, pa.table({"a": [1]}))
    assert not (tmp_path / "p.parquet").exists()
    write_rows(tmp_path / "e.parquet", Selected, [Selected(problem_id="p", split="train")])
    with pytest.raises(UserError, match="has no column 'id', which Problem has"):
        read_table(tmp_path / "e.parquet", Problem)
    with pytest.raises(UserError, match="run the stage"):
        read_table(tmp_path / "absent.parquet", Problem)


def older(path: Path, *names: str) -> None:
    """Write a file again without some columns, as a version wrote it that did not have them."""
    pq.write_table(pq.read_table(path).drop_columns(list(names)), path)


def test_nullable_columns_added_at_the_end_are_none_in_older_files(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    rows = [problem(1, model="m", prompt="q"), problem(2)]
    write_rows(path, Problem, rows)
    assert later_columns(path, Problem) == ()
    older(path, "model", "prompt")
    assert later_columns(path, Problem) == ("model", "prompt")
    assert read_rows(path, Problem) == [problem(1), problem(2)]
    table = read_table(path, Problem)
    assert table.schema.equals(schema(Problem)) and table["prompt"].to_pylist() == [None, None]
    assert read_table(path, Problem, ("id", "prompt")).column_names == ["id", "prompt"]
    assert write_rows(tmp_path / "again.parquet", Problem, table) == 2


@pytest.mark.parametrize("lost", ["model", "answer", "benchmark_root", "text"])
def test_a_column_that_is_missing_elsewhere_or_must_have_a_value_is_an_error(
    tmp_path: Path, lost: str
) -> None:
    path = tmp_path / "p.parquet"
    write_rows(path, Problem, [problem(1)])
    older(path, lost)
    with pytest.raises(UserError, match=f"has no column '{lost}', which Problem has"):
        read_rows(path, Problem)
