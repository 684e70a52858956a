"""Files of problems: their format, their columns and their rows.

A file is opened (`input_bytes`), its format is recognised by its content, and its rows are read as `Record`s, or as a `Fault`
for a row that cannot be read (`json_records`, `delimited_records`, `arrow_records`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import IO, Any

from tasks.errors import UserError
from tasks.storage.arrow_records import arrow_records, column_names, parquet_records, saved_files
from tasks.storage.delimited_records import delimited_records, dialect_of, header_of
from tasks.storage.input_bytes import ARROW_FILE, ARROW_STREAM, PARQUET, file_digest, opened
from tasks.storage.json_records import entry_records, holds_lines, line_records, whole_json
from tasks.storage.records import Fault, Faults, Record

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
_JSON = (*JSON_LINES, ".json")
_DELIMITED = (".csv", ".tsv", ".tab")
_SUFFIXES = (*_JSON, *_DELIMITED, ".txt", ".parquet", ".arrow", ".feather")
_COMPRESSED = (".gz", ".gzip", ".zst", ".zstd")
_JSON_START = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\{\s*"|\[\s*\{)')
_FORMATS = ".jsonl, .json, .csv, .tsv, .parquet or .arrow file, plain or as .gz or .zst"


class Format(Enum):
    """Formats of input files."""

    LINES = auto()
    JSON = auto()
    DELIMITED = auto()
    PARQUET = auto()
    ARROW = auto()
    STREAM = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a file contains: its columns, each with its first value that is not null, and what was recognised."""

    columns: Mapping[str, Any]
    notices: tuple[str, ...]
    delimiter: str | None = None  # of a delimited file


def survey(path: Path) -> Survey:
    """Read a file once and describe it. Rows that cannot be read are left to `read_records`, unless there are no others.

    Raises `UserError` for a file that is missing, empty or damaged or has an unsupported format.
    """
    columns: dict[str, Any] = {}
    notices: list[str] = []
    delimiter = None
    for part in _parts(path):
        with opened(part) as plain:
            found = _described(part, plain.file)
            notices += [*plain.notices, *found.notices]
            columns |= found.columns
            delimiter = found.delimiter
    faults = Faults(path)
    for row in read_records(path):
        if isinstance(row, Fault):
            faults.add(row.sentence)
            continue
        for name, value in row.values.items():
            if columns.get(name) is None:
                columns[name] = value
    if not columns:
        faults.raise_any()
        raise no_problems(path)
    return Survey(columns=columns, notices=tuple(dict.fromkeys(notices)), delimiter=delimiter)


def _described(path: Path, file: IO[bytes]) -> Survey:
    """Describe a file without its rows: the columns of a header or schema, without values, and what was recognised."""
    name, kind = str(path), _format(path, file)
    if kind is Format.LINES:
        return Survey(columns={}, notices=())
    if kind is Format.JSON:
        _, notice = whole_json(name, file)
        return Survey(columns={}, notices=(notice,) if notice else ())
    if kind is Format.DELIMITED:
        dialect = dialect_of(name, file)
        names = dict.fromkeys(header_of(name, file, dialect))
        notices = (dialect.notice,) if dialect.notice else ()
        return Survey(columns=names, notices=notices, delimiter=dialect.delimiter)
    names, binary = column_names(name, file, kind.name.lower())
    notices = tuple(f"column {found!r} has binary values and is not kept" for found in binary)
    return Survey(columns=dict.fromkeys(names), notices=notices)


def no_problems(path: Path) -> UserError:
    """Return the error for a file without rows."""
    return UserError(f"{path} contains no problems: add at least one row or remove this source.")


def read_records(path: Path) -> Iterator[Record | Fault]:
    """Yield the rows of a file in order. Raises `UserError` as `survey` does."""
    done = 0
    for file in _parts(path):
        with opened(file) as plain:
            for row in _records(file, plain.file, done):
                done = row.line if isinstance(row, Record) else done
                yield row


def input_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of the content of a file, or of the files of a folder."""
    parts = _parts(path)
    if parts == (path,):
        return file_digest(path)
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{part.name}\0{file_digest(part)}\n".encode())
    return total.hexdigest()


def input_name(path: Path) -> str:
    """Return the name of a file without the suffixes of compression and format."""
    name = Path(path.name)
    for suffixes in (_COMPRESSED, _SUFFIXES):
        if name.suffix.lower() in suffixes and name.stem:
            name = Path(name.stem)
    return str(name)


def _parts(path: Path) -> tuple[Path, ...]:
    return saved_files(path) if path.is_dir() else (path,)


def _records(path: Path, file: IO[bytes], done: int) -> Iterator[Record | Fault]:
    name, kind = str(path), _format(path, file)
    if kind is Format.LINES:
        return line_records(file)
    if kind is Format.JSON:
        return entry_records(whole_json(name, file)[0])
    if kind is Format.DELIMITED:
        return delimited_records(name, file, dialect_of(name, file))
    if kind is Format.PARQUET:
        return parquet_records(name, file)
    return arrow_records(name, file, stream=kind is Format.STREAM, start=done)


def _format(path: Path, file: IO[bytes]) -> Format:
    """Return the format by content; the suffix only names text as JSON or JSON lines. Raises `UserError` for other files."""
    head = file.read(1 << 14)
    file.seek(0)
    for mark, kind in (
        (PARQUET, Format.PARQUET),
        (ARROW_FILE, Format.ARROW),
        (ARROW_STREAM, Format.STREAM),
    ):
        if head.startswith(mark):
            return kind
    suffix = _suffix(path)
    if suffix in (".parquet", ".arrow", ".feather"):
        raise UserError(f"{path} is not a readable {suffix} file: write it again.")
    if suffix not in _JSON and not _JSON_START.match(head):
        if suffix not in (*_DELIMITED, ".txt", ""):
            raise UserError(f"{path} is not a {_FORMATS}: convert it to one of these.")
        return Format.DELIMITED
    return Format.LINES if holds_lines(file, lines_expected=suffix in JSON_LINES) else Format.JSON


def _suffix(path: Path) -> str:
    name = Path(path.stem) if path.suffix.lower() in _COMPRESSED else path
    return name.suffix.lower()
