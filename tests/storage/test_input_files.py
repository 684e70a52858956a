"""Input files are read by their content, compressed or not, or refused in one sentence with a remedy."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from tasks.errors import UserError
from tasks.storage import arrow_records, input_bytes
from tasks.storage.input_files import input_digest, input_name, read_records, survey
from tasks.storage.records import MAX_BYTES, Fault, Record

ROWS = [{"text": "What is 1 + 1?", "answer": "2"}, {"text": "Wie viel, ½ + ½?", "answer": "1"}]
CSV = 'text,answer\nWhat is 1 + 1?,2\n"Wie viel, ½ + ½?",1\n'


def rows(path: Path) -> list[Any]:
    """The rows of a file, with the sentence of a fault in place of a row."""
    return [row.values if isinstance(row, Record) else row.sentence for row in read_records(path)]


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def arrow(opened: Callable[..., Any]) -> bytes:
    table, sink = pa.Table.from_pylist(ROWS), io.BytesIO()
    with opened(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def compressed(data: bytes) -> bytes:
    """Return the data as gzip, without the time: the processes of xdist must collect the same tests."""
    return gzip.compress(data, mtime=0)


LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("a.jsonl", LINES.encode("utf-16")),
        ("a.jsonl", LINES.encode("utf-16-be")),
        ("a.jsonl", LINES.encode("utf-32")),
        ("a.ndjson", LINES.replace("\n", "\r\n").encode()),
        ("a.json", LINES.encode()),
        ("a.txt", LINES.encode()),
        ("a", LINES.encode()),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.jsonl", json.dumps(ROWS, indent=1).encode()),
        ("a.jsonl", "\n".join(json.dumps(row, indent=1) for row in ROWS).encode()),
        ("a.json", json.dumps({"version": "1.0", "data": ROWS}).encode()),
        ("a.json", json.dumps(COLUMNS).encode()),
        (
            "a.json",
            json.dumps({name: {str(n): cell for n, cell in enumerate(cells)} for name, cells in COLUMNS.items()}).encode(),
        ),
        ("a.json", json.dumps({str(n): row for n, row in enumerate(ROWS)}).encode()),
        ("a.csv", CSV.encode()),
        ("a.csv", CSV.encode("utf-8-sig")),
        ("a.csv", CSV.encode("utf-16")),
        ("a.csv", CSV.encode("utf-16-le")),
        ("a.csv", CSV.replace("\n", "\r").encode()),
        ("a.csv", CSV.replace("answer", " answer ").encode()),
        ("a.csv", (CSV + "\n,\n , \n").encode()),
        ("a.csv", b"sep=;\ntext;answer\nWhat is 1 + 1?;2\n" + "Wie viel, ½ + ½?;1\n".encode()),
        ("a.csv", "text;answer\nWhat is 1 + 1?;2\nWie viel, ½ + ½?;1\n".encode()),
        ("a.csv", 'text, answer\nWhat is 1 + 1?, 2\n"Wie viel, ½ + ½?", 1\n'.encode()),
        ("a.tsv", "text\tanswer\nWhat is 1 + 1?\t2\nWie viel, ½ + ½?\t1\n".encode()),
        ("a.txt", "text|answer\nWhat is 1 + 1?|2\nWie viel, ½ + ½?|1\n".encode()),
        ("a.csv", LINES.encode()),
        ("a.parquet", parquet()),
        ("a.jsonl", parquet()),
        ("a.arrow", arrow(pa.ipc.new_file)),
        ("a.arrow", arrow(pa.ipc.new_stream)),
        ("a.jsonl.gz", compressed(LINES.encode())),
        ("a.jsonl.gz", compressed(LINES[:40].encode()) + compressed(LINES[40:].encode())),
        ("a.csv.gz", compressed(CSV.encode("utf-16"))),
        ("a.jsonl.zst", zstd(LINES.encode())),
        ("a.parquet.zst", zstd(parquet())),
        ("a.jsonl", compressed(LINES.encode())),
    ],
)  # fmt: skip
def test_the_rows_are_the_same_in_every_format(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert rows(tmp_path / name) == ROWS
    assert survey(tmp_path / name).columns == ROWS[0]
    assert input_name(tmp_path / name) == "a"


@pytest.mark.parametrize(
    ("name", "content", "notices"),
    [
        ("a.csv", CSV.encode(), []),
        ("a.csv", CSV.encode("utf-16-le"), ["UTF-16 without a byte-order mark, read as UTF-16-LE"]),
        ("a.csv", b"a;b\n1;2\n", ["the cells are separated by semicolons"]),
        (
            "a.tsv",
            b'a\tb\nsay "x\t2\n5" x\t"3\n',
            ["the cells are separated by tabs, and quotes are part of the text"],
        ),
        ("a.json", b'{"rows": [{"a": 1}]}', ["the rows are in the list 'rows'"]),
        ("a.json", b'{"a": [1, 2], "b": [3, 4]}', ["the file has one entry per column"]),
    ],
)
def test_what_was_recognised_is_announced(
    tmp_path: Path, name: str, content: bytes, notices: Sequence[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert list(survey(tmp_path / name).notices) == notices


def test_a_single_column_with_other_delimiters_in_its_text_stays_one_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nFind a; b | c.\nAnd\td.\n")
    assert rows(tmp_path / "a.csv") == [{"text": "Find a; b | c."}, {"text": "And\td."}]
    (tmp_path / "a.csv").write_text("text,note;more\na,1;2\nb,3\n")
    assert rows(tmp_path / "a.csv")[1] == {"text": "b", "note;more": "3"}


def test_an_unnamed_column_is_called_after_its_position(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",text,,\n0,How many?,,\n")
    assert rows(tmp_path / "a.csv") == [
        {"column 1": "0", "text": "How many?", "column 3": None, "column 4": None}
    ]


def test_rows_that_cannot_be_read_do_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b'{"a": 1}\n{"a": \n["b"]\n"' + b"x" * MAX_BYTES + b'"\n{"a": "\xe9"}\n{"a": 2}\n'
    )
    found = rows(tmp_path / "a.jsonl")
    assert found[0] == {"a": 1} and found[-1] == {"a": 2} and len(found) == 6
    assert [sentence.split(":")[0].split(" (")[0] for sentence in found[1:-1]] == [
        "line 2 is not valid JSON",
        "line 3 is not a JSON object",
        "line 4 is longer than 1,000,000 bytes",
        "line 5 is not UTF-8",
    ]
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n3\n4,\xe9\n5,6\n")
    found = rows(tmp_path / "a.csv")
    assert (found[0], found[3]) == ({"a": "1", "b": "2"}, {"a": "5", "b": "6"})
    assert found[1].startswith("line 3 has 1 cells, but the header has 2")
    assert found[2].startswith("line 4 is not UTF-8 (byte 12 of the file is 0xe9)")


def workbook(member: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr(member, "x")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.xlsx", workbook("xl/workbook.xml"), r"a\.xlsx is a spreadsheet: export the sheet as CSV \(in Excel: File, Save As"),
        ("a.csv", workbook("xl/workbook.xml"), r"a\.csv is a spreadsheet"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Excel workbook: export"),
        ("a.zip", workbook("a.jsonl"), "is a zip archive: unpack it"),
        ("a.jsonl.bz2", b"BZh91AY", "is compressed with bzip2: decompress it first"),
        ("a.jsonl.xz", b"\xfd7zXZ\x00", "is compressed with xz"),
        ("a.pdf", b"%PDF-1.7", "is a PDF"),
        ("a.jsonl.gz", compressed(LINES.encode())[:-12], r"a\.jsonl\.gz cannot be decompressed"),
        ("a.jsonl.zst", zstd(LINES.encode() * 99)[:-9], r"a\.jsonl\.zst cannot be decompressed|is not valid JSON"),
        ("a.parquet", b"text,answer\n", r"a\.parquet is not a readable \.parquet file"),
        ("a.arrow", arrow(pa.ipc.new_file)[:-60], "is not a readable Arrow file"),
        ("a.csv", b"Frage;Antwort\n1;2;3\n4;5;6\n", "line 1 separates its cells by semicolons, but the other rows"),
        ("a.csv", b'a,b\n"1,2\n', "line 2 is not valid CSV .the file ends inside double quotes"),
        ("a.csv", b"a,b\n" + b"x" * MAX_BYTES + b"y,1\n", "line 2 is longer than 1,000,000 bytes"),
        ("a.csv", b"a\x00\x01\x00\x00b\xff\x00" * 99, "contains zero bytes, so it is not text"),
        ("a.csv", CSV.encode("utf-16")[:-1], "is not valid UTF-16"),
        ("a.json", b'[{"a": 1}', r"a\.json is not valid JSON \(.*line 1, column 10\)"),
        ("a.json", b'[{"a": ' + b"[" * 200_000, r"a\.json (cannot be read as|is not valid) JSON"),
        ("a.json", b"[1]", "entry 1 is not a JSON object"),
        ("a.jsonl", b"\n", "contains no problems"),
        ("a.tex", b"What is 1 + 1?", r"a\.tex is not a \.jsonl, .*: convert it"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_a_remedy(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence) as raised:
        survey(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_grows_when_decompressed_is_refused_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["x" * 100] * 50_000}), sink)
    for module in (input_bytes, arrow_records):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 3_000_000)
    for name, content in [
        ("a.jsonl.gz", compressed(b"\n" * 5_000_000)),
        ("a.jsonl.zst", zstd(b"\n" * 5_000_000)),
        ("a.parquet", sink.getvalue()),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="has more than 3,000,000 bytes when decompressed: divide it"):
            survey(tmp_path / name)


def test_a_folder_that_datasets_saved_is_read(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"), num_shards=2)
    assert rows(tmp_path / "one") == ROWS and list(survey(tmp_path / "one").columns) == ["text", "answer"]
    assert [row.where for row in read_records(tmp_path / "one") if isinstance(row, Record)] == [
        "row 1",
        "row 2",
    ]
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "dict"))
    assert rows(tmp_path / "dict") == ROWS and rows(tmp_path / "dict" / "train") == ROWS
    both = DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])})
    both.save_to_disk(str(tmp_path / "both"))
    with pytest.raises(
        UserError, match=r"both has the splits train, test: give one of them, e\.g\. .*both/train"
    ):
        survey(tmp_path / "both")
    state = tmp_path / "one" / "state.json"
    before = input_digest(tmp_path / "one")
    state.write_text(state.read_text().replace("data-00000", "../../data-00000"))
    assert rows(tmp_path / "one") == ROWS and input_digest(tmp_path / "one") == before  # stays in the folder
    with pytest.raises(UserError, match="is a folder that `save_to_disk` of datasets did not write"):
        survey(tmp_path)


def test_the_columns_of_a_file_are_those_of_its_header_or_of_any_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"answer": {"b": 1}, "text": "x"}\n')
    assert survey(tmp_path / "a.jsonl").columns == {"text": "x", "answer": {"b": 1}}
    (tmp_path / "a.csv").write_text("text,answer\nx,\n")
    assert survey(tmp_path / "a.csv").columns == {"text": "x", "answer": None}


def test_text_of_a_table_that_is_not_utf8_is_a_fault_of_its_row(tmp_path: Path) -> None:
    broken = pa.array([b"fine", b"caf\xe9", b"again"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    first, second, third = read_records(tmp_path / "a.parquet")
    assert isinstance(first, Record) and isinstance(third, Record) and third.line == 3
    assert isinstance(second, Fault) and second.sentence.startswith("row 2: column 'text' is not UTF-8")


def test_the_digest_of_a_file_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LINES)
    assert input_digest(tmp_path / "a.jsonl") == hashlib.sha256(LINES.encode()).hexdigest()
    with pytest.raises(UserError, match=r"missing\.jsonl cannot be read"):
        input_digest(tmp_path / "missing.jsonl")
