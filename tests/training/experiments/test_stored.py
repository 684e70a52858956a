"""Results of cells: whole or not at all, small, readable by a later session, and damaged files are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.errors import UserError
from training.experiments.cell import Cell
from training.experiments.stored import (
    CellResult,
    Point,
    counts,
    grades_of,
    read_cell,
    read_cells,
    write_cell,
)

CELL = {"profile": "pocket", "algorithm": "opd", "baseline": None, "changes": {"a.b": 1}, "seed": 0}
RESULT = CellResult(
    key="0123456789abcdef", fingerprint="f" * 64, cell=CELL, dataset={"rows": 3}, versions={"cell": 1}, commit=None,
    command="make experiment NAME=x", machine="CPU", evaluation={"samples": 4},
    curve=(Point(step=0, tokens=0, seconds=0.0, correct="0420"), Point(step=2, tokens=90, seconds=1.5, correct="1430")),
    metrics={"loss": 0.25}, totals={"seconds": 1.5}, ended="steps",
)  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_cell(tmp_path / "cells", RESULT)
    assert path.name == "0123456789abcdef.json" and json.loads(path.read_text())["format"] == 1
    assert read_cells(tmp_path / "cells") == {RESULT.key: RESULT}
    assert read_cell(path).as_cell() == Cell(profile="pocket", algorithm="opd", changes={"a.b": 1})
    assert read_cells(tmp_path / "none") == {}


def test_counts_are_the_correct_samples_of_each_problem() -> None:
    assert counts([[True, False, True], [False] * 3, [True] * 3]) == "203"
    grades = grades_of(Point(step=0, tokens=0, seconds=0.0, correct="203"), 3)
    assert grades.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    with pytest.raises(UserError, match=r"evaluation\.samples is above 9"):
        counts([[True] * 10])


def test_a_result_that_is_too_large_is_not_written(tmp_path: Path) -> None:
    large = replace(RESULT, curve=(Point(step=0, tokens=0, seconds=0.0, correct="1" * 20_000),))
    with pytest.raises(UserError, match=r"at most 20,000 are stored: raise evaluation\.every_steps"):
        write_cell(tmp_path, large)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not the result of a cell"),
        ("[]", "is not the result of a cell"),
        ('{"format": 1}', "is not the result of a cell"),
        ('{"format": 2}', "has format 2, this version reads 1"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "0123456789abcdef.json").write_text(text)
    with pytest.raises(UserError, match=words):
        read_cells(tmp_path)


def test_a_renamed_file_is_refused(tmp_path: Path) -> None:
    write_cell(tmp_path, RESULT).rename(tmp_path / "other.json")
    with pytest.raises(UserError, match="is the result of cell 0123456789abcdef"):
        read_cells(tmp_path)
