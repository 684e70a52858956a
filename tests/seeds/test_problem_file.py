"""A problem file is read exactly, or refused with an error that names file, line and remedy."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import UserError
from tasks.rows import Tier
from tasks.seeds.columns import Column
from tasks.seeds.problem_file import RawProblem, read_problem_file
from tasks.storage.records import MAX_BYTES

COLUMNS: dict[Column, str] = {
    "text": "question",
    "answer": "final",
    "solution": "steps",
    "id": "name",
    "tier": "level",
}
ROW = {
    "question": "What is 1 + 1?",
    "final": "2",
    "steps": "1 + 1 = 2",
    "name": "a",
    "level": "easy",
    "unused": [1],
}


def jsonl(path: Path, *rows: dict[str, Any] | bytes) -> Path:
    path.write_bytes(
        b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
    )
    return path


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def csv_file(path: Path, *rows: dict[str, Any]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path, columns: dict[Column, str] = COLUMNS, **more: Any) -> list[RawProblem]:
    return list(read_problem_file(path, columns, **more))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "JSONL", "csv"])
def test_every_column_is_read_from_every_type_of_file(tmp_path: Path, kind: str) -> None:
    write = {"parquet": parquet, "csv": csv_file}.get(kind, jsonl)
    other = {
        **ROW,
        "name": "b",
        "question": "Sei x = ½ ∑?",
        "final": None,
        "steps": None,
        "level": "competition",
    }
    first = 2 if kind == "csv" else 1  # below the header
    place = "row" if kind == "parquet" else "line"
    problems = read(write(tmp_path / f"a.{kind}", ROW, other))
    unused = "[1]" if kind == "csv" else [1]
    assert problems == [
        RawProblem(
            line=first,
            where=f"{place} {first}",
            source_id="a",
            text="What is 1 + 1?",
            answer="2",
            solution="1 + 1 = 2",
            tier=Tier.EASY,
            others={"unused": unused, "steps": "1 + 1 = 2"},
        ),
        RawProblem(
            line=first + 1,
            where=f"{place} {first + 1}",
            source_id="b",
            text="Sei x = ½ ∑?",
            answer=None,
            solution=None,
            tier=Tier.COMPETITION,
            others={"unused": unused, "steps": None},
        ),
    ]
    assert type(problems[0].tier) is Tier


def test_without_an_id_column_there_is_no_id_and_blank_lines_are_counted_but_skipped(
    tmp_path: Path,
) -> None:
    path = jsonl(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + json.dumps(ROW).encode(), b"  ", ROW, b"")
    problems = read(path, {"text": "question"}, tier=Tier.HARD)
    assert [(p.line, p.source_id, p.tier, p.answer) for p in problems] == [
        (1, None, "hard", None),
        (3, None, "hard", None),
    ]


def test_a_tier_in_the_file_takes_precedence_over_the_default(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROW, {**ROW, "name": "b", "level": None})
    assert [problem.tier for problem in read(path, tier=Tier.HARD)] == ["easy", "hard"]


@pytest.mark.parametrize(("value", "text"), [(33, "33"), (0.5, "0.5"), (float("nan"), None)])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_numbers_are_accepted_as_answers(tmp_path: Path, kind: str, value: float, text: str | None) -> None:
    path = (parquet if kind == "parquet" else jsonl)(tmp_path / f"a.{kind}", {**ROW, "final": value})
    assert read(path)[0].answer == text


def test_lines_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROW, {**ROW, "name": "b"}, b"{")
    assert len(read(path, limit=2)) == 2
    with pytest.raises(UserError):
        read(path, limit=3)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({**ROW, "question": ""}, r"a\.jsonl, line 2 has an empty text \(column 'question'\): fill it in"),
        ({**ROW, "question": " \n\t"}, "line 2 has an empty text"),
        ({**ROW, "question": None}, "line 2 has an empty text"),
        ({**ROW, "name": ""}, "line 2 has an empty id"),
        ({**ROW, "question": 7}, r"line 2: the text \(column 'question'\) is of type int, not a string: put it in quotes"),
        ({**ROW, "question": ["x"]}, "of type list, not a string"),
        ({**ROW, "final": True}, "the answer .* is of type bool"),
        ({**ROW, "question": "x \ud800"}, "line 2: the text .* contains a lone surrogate"),
        ({**ROW, "name": "z", "level": "brutal"}, "line 2 has the tier 'brutal': use one of easy, medium, hard, competition"),
        ({**ROW, "level": None}, "line 2 has the tier None"),
        (ROW, r"line 2 repeats the id 'a' of line 1: give every problem a unique id"),
        ({"question": "x", "name": "b"}, "line 2 has no column 'final' for the answer; it has question, name: correct"),
        (b"{'a': 1}", r"line 2 is not valid JSON \(Expecting property name.*, character 2\): write one JSON object per line"),
        (b"[1, 2]", "line 2 is not a JSON object"),
        (b'{"question": ' + b"[" * 200_000, "line 2 (cannot be read as|is not valid) JSON"),
        (b'{"question": ' + b"9" * 5000 + b"}", "line 2 cannot be read as JSON"),
        (b'{"question": "' + b"x" * MAX_BYTES, "line 2 is longer than 1,000,000 bytes: shorten or remove it"),
    ],
)  # fmt: skip
def test_an_invalid_line_is_reported_with_file_line_and_remedy(
    tmp_path: Path, row: Any, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        read(jsonl(tmp_path / "a.jsonl", ROW, row))
    assert str(tmp_path / "a.jsonl") in str(raised.value) and "\n" not in str(raised.value)


def test_bytes_that_are_not_utf8_are_reported_with_their_offset_in_the_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROW, b'{"question": "caf\xe9"}')
    place = path.read_bytes().index(b"\xe9")
    with pytest.raises(
        UserError, match=rf"a\.jsonl, line 2 is not UTF-8 \(byte {place} of the file is 0xe9\): save"
    ):
        read(path)


def test_a_line_of_the_maximum_length_is_read(tmp_path: Path) -> None:
    frame = len(json.dumps({"question": ""})) + 1
    text = "x" * (MAX_BYTES - frame)
    assert (
        read(jsonl(tmp_path / "a.jsonl", {"question": text}), {"text": "question"}, tier=Tier.EASY)[0].text
        == text
    )
    with pytest.raises(UserError, match="line 1 is longer"):
        read(jsonl(tmp_path / "a.jsonl", {"question": text + "x"}), {"text": "question"}, tier=Tier.EASY)


def test_a_missing_required_answer_is_reported(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {**ROW, "final": None})
    assert read(path)[0].answer is None
    with pytest.raises(UserError, match=r"line 1 has an empty answer \(column 'final'\)"):
        read(path, answers_required=True)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({**ROW, "question": ""}, r"a\.parquet, row 2 has an empty text"),
        ({**ROW, "question": None}, "row 2 has an empty text"),
        (ROW, "row 2 repeats the id 'a' of row 1"),
        ({**ROW, "name": "b", "level": "x"}, "row 2 has the tier 'x'"),
        (
            {**ROW, "question": "x" * (MAX_BYTES + 1)},
            r"row 2: the text \(column 'question'\) is longer than 1,000,000 bytes",
        ),
    ],
)
def test_an_invalid_row_of_a_parquet_file_is_reported_in_the_same_way(
    tmp_path: Path, row: Any, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        read(parquet(tmp_path / "a.parquet", ROW, row))


def test_a_parquet_column_that_is_missing_or_of_another_type_or_not_utf8_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(
        UserError,
        match=r"a\.parquet, row 1 has no column 'question' for the text; it has q: correct the columns",
    ):
        read(parquet(path, {"q": "x"}), {"text": "question"}, tier=Tier.EASY)
    with pytest.raises(UserError, match=r"row 1: the text \(column 'question'\) is of type int"):
        read(parquet(path, {"question": 3}), {"text": "question"}, tier=Tier.EASY)
    broken = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"question": broken}), path)
    with pytest.raises(UserError, match="row 2: column 'question' is not UTF-8"):
        read(path, {"text": "question"}, tier=Tier.EASY)


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "a.doc").write_text("What is 1 + 1?")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nonsense")
    (tmp_path / "empty.jsonl").write_bytes(b"\n \n")
    parquet(tmp_path / "empty.parquet", ROW)
    pq.write_table(pq.read_table(tmp_path / "empty.parquet").slice(0, 0), tmp_path / "empty.parquet")
    for name, sentence in [
        ("missing.jsonl", r"missing\.jsonl cannot be read \(No such file or directory\): correct the path"),
        (
            "folder.jsonl",
            r"folder\.jsonl is a folder that `save_to_disk` of datasets did not write: give one file",
        ),
        (
            "a.doc",
            r"a\.doc is not a \.jsonl, \.json, \.csv, \.tsv, \.parquet or \.arrow file, .*: convert it",
        ),
        ("broken.parquet", r"broken\.parquet is not a readable Parquet file"),
        ("empty.jsonl", r"empty\.jsonl contains no problems"),
        ("empty.parquet", r"empty\.parquet contains no problems"),
    ]:
        with pytest.raises(UserError, match=sentence):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"question\nhow many?\none, two?\n", r"line 3 has 2 cells, but the header has 1: put cells"),
        (
            b'question\n"how many?\n',
            r"line 2 is not valid CSV \(the file ends inside double quotes.*\): correct it",
        ),
        (b"question\n\ncaf\xe9?\n", r"line 3 is not UTF-8 \(byte 13 of the file is 0xe9\)"),
        (b"question,question\na,b\n", r"line 1 has two columns 'question'"),
        (b"text\nhow many?\n", r"line 2 has no column 'question' for the text; it has text"),
        (b"question\n", r"contains no problems"),
        (b"question,final\n  ,2\n", r"line 2 has an empty text \(column 'question'\)"),
    ],
)
def test_an_error_in_a_csv_file_is_reported_with_its_line(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read(tmp_path / "a.csv", {"text": "question"}, tier=Tier.EASY)


def test_a_cell_of_a_csv_file_may_contain_commas_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('question,answer\n"If x = 1, and\ny = 2, what is x + y?",\n"And ""y""?",2\n')
    first, second = read(path, {"text": "question", "answer": "answer"}, tier=Tier.EASY)
    assert (first.text, first.answer, first.line) == ("If x = 1, and\ny = 2, what is x + y?", None, 3)
    assert (second.text, second.answer, second.line) == ('And "y"?', "2", 4)
