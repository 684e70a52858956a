"""Read problems from a local .jsonl, .csv or .parquet file; every defect of the file is reported as one `UserError`."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import UserError
from tasks.rows import Tier

MAX_BYTES = 1_000_000
"""Longest line of a .jsonl or .csv file, and longest text of a .parquet file, in bytes."""

Column = Literal["text", "answer", "solution", "id", "tier"]
"""The fields of a problem that a column of a file can be mapped to."""

_BATCH = 1000  # Parquet rows read at once
_NUMBERS = ("answer", "id")  # columns that may also contain numbers
_TIERS = ", ".join(Tier)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawProblem:
    """One problem as read from a file. `line` counts from 1 (lines of a .jsonl or .csv, rows of a .parquet file)."""

    line: int
    source_id: str  # the id column, or the line number
    text: str
    answer: str | None
    solution: str | None
    tier: Tier


def read_problem_file(
    path: Path,
    columns: Mapping[Column, str],
    *,
    tier: Tier | None = None,
    limit: int | None = None,
    answers_required: bool = False,
    sparse: bool = False,
) -> Iterator[RawProblem]:
    """Yield the problems of a file lazily, in file order, at most `limit` of them.

    `columns` maps `text` (required), `answer`, `solution`, `id` and `tier` to the file's column names; `tier`
    is the default for rows without one. Blank lines are skipped, and an empty cell of a .csv is null; `answer` and
    `solution` may be null (`answer` not if `answers_required`). With `sparse`, a row of a .jsonl may lack any column
    except the text.

    Raises `UserError`, naming the file, the line or row and the remedy, for a file that is missing, empty, damaged or
    of an unsupported type, and for a row with a missing column, an empty or non-string text, an invalid tier, or a
    duplicate id.
    """
    path = Path(path)
    kinds: dict[str, Callable[[Path], Iterator[Located]]] = {
        ".jsonl": _jsonl_file,
        ".csv": _csv_file,
        ".parquet": lambda file: _parquet_file(file, columns),
    }
    seen: dict[str, str] = {}
    for where, line, row in islice(kinds[_kind(path)](path), limit):
        _check_columns(where, {"text": columns["text"]} if sparse else columns, row)
        problem = _problem(where, line, row, columns, tier, answers_required)
        if problem.source_id in seen:
            raise UserError(
                f"{where} repeats the id {problem.source_id!r} of {seen[problem.source_id]}: give every"
                " problem a unique id."
            )
        seen[problem.source_id] = where.removeprefix(f"{path}, ")
        yield problem
    if not seen and limit != 0:
        raise UserError(f"{path} contains no problems: add at least one row or remove this source.")


def file_columns(path: Path) -> tuple[str, ...]:
    """Return the column names of a file in order (for a .jsonl: the names in any row). Raises `UserError` as
    `read_problem_file` does."""
    path = Path(path)
    kind = _kind(path)
    if kind == ".parquet":
        with path.open("rb") as file, _parquet(str(path), file) as table:
            return tuple(table.schema_arrow.names)
    if kind == ".csv":
        with path.open("rb") as file:
            return next((tuple(row) for _, row in _csv_lines(str(path), file)), ())
    return tuple(dict.fromkeys(name for _, _, row in _jsonl_file(path) for name in row))


def _kind(path: Path) -> str:
    """Return the suffix of a readable file in lower case. Raises `UserError` for another type, or if it cannot be opened."""
    if path.suffix.lower() not in (".jsonl", ".csv", ".parquet"):
        raise UserError(f"{path} is not a .jsonl, .csv or .parquet file: convert it to one of these.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): correct the path of this source."
        ) from error
    return path.suffix.lower()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content, the identity of a file source. Raises `UserError` if it cannot be
    read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): correct the path of this source."
        ) from error


Located = tuple[str, int, Mapping[str, Any]]  # "file, line 7", 7, the row


def _jsonl_file(path: Path) -> Iterator[Located]:
    with path.open("rb") as file:
        yield from jsonl_rows(str(path), file)


def jsonl_rows(name: str, file: IO[bytes]) -> Iterator[Located]:
    """Yield (location, line number, object) for every non-blank line of an open .jsonl file. Raises `UserError` for an
    invalid line."""
    offset = 0
    for number, line in enumerate(iter(lambda: file.readline(MAX_BYTES + 1), b""), start=1):
        where = f"{name}, line {number}"
        if len(line) > MAX_BYTES:
            raise UserError(f"{where} is longer than {MAX_BYTES:,} bytes: shorten or remove it.")
        if line.strip():
            yield where, number, _parse(where, line, offset)
        offset += len(line)


def _parse(where: str, line: bytes, offset: int) -> Mapping[str, Any]:
    try:
        row = json.loads(_decoded(where, line, offset))
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, character {error.pos + 1}"
        raise UserError(f"{where} is not valid JSON ({reason}): write one JSON object per line.") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise UserError(f"{where} cannot be read as JSON ({error}): correct or remove it.") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object: write one object with named values per line.")
    return row


def _decoded(where: str, line: bytes, offset: int) -> str:
    try:
        return line.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 (byte {offset + error.start:,} of the file is 0x{line[error.start]:02x}):"
            " save the file as UTF-8."
        ) from error


def _csv_file(path: Path) -> Iterator[Located]:
    """Yield the rows below the header, with None for an empty cell; the line number of a row is that of its last line."""
    with path.open("rb") as file:
        lines = _csv_lines(str(path), file)
        _, names = next(lines, (0, []))
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{path}, line 1 has two columns {twice!r}: give every column a unique name.")
        for number, cells in lines:
            where = f"{path}, line {number}"
            if len(cells) != len(names):
                raise UserError(
                    f"{where} has {len(cells)} cells, but the header has {len(names)}: put cells with commas or line"
                    " breaks in double quotes."
                )
            yield where, number, {name: cell or None for name, cell in zip(names, cells, strict=True)}


def _csv_lines(name: str, file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) for every non-blank row, the header first."""

    def lines() -> Iterator[str]:
        offset = 0
        for number, line in enumerate(iter(lambda: file.readline(MAX_BYTES + 1), b""), start=1):
            if len(line) > MAX_BYTES:
                raise UserError(
                    f"{name}, line {number} is longer than {MAX_BYTES:,} bytes: shorten or remove it."
                )
            yield _decoded(f"{name}, line {number}", line, offset)
            offset += len(line)

    rows = csv.reader(lines(), strict=True)
    try:
        for cells in rows:
            if cells:
                yield rows.line_num, cells
    except csv.Error as error:
        raise UserError(
            f"{name}, line {rows.line_num} is not valid CSV ({error}): correct it, or write the file as JSON lines."
        ) from error


def _parquet_file(path: Path, columns: Mapping[Column, str]) -> Iterator[Located]:
    with path.open("rb") as file:
        with _parquet(str(path), file) as table:
            _check_columns(str(path), columns, table.schema_arrow.names)
        yield from parquet_rows(str(path), file, columns.values())


def parquet_rows(name: str, file: IO[bytes], columns: Iterable[str]) -> Iterator[Located]:
    """Yield (location, row number, row) for every row of an open .parquet file.

    Reads those of `columns` that exist, or all columns if none of them does. Raises `UserError` for a damaged file or an
    invalid value.
    """
    with _parquet(name, file) as table:
        there = table.schema_arrow.names
        wanted, number = [column for column in dict.fromkeys(columns) if column in there] or there, 0
        for batch in table.iter_batches(batch_size=_BATCH, columns=wanted, use_threads=False):
            for index in range(batch.num_rows):
                number += 1
                where = f"{name}, row {number}"
                row = {column: _cell(where, column, batch.column(column)[index]) for column in wanted}
                yield where, number, row


@contextmanager
def _parquet(name: str, file: IO[bytes]) -> Iterator[pq.ParquetFile]:
    try:
        yield pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} is not a readable Parquet file ({reason}): write it again.") from error


def _cell(where: str, name: str, value: pa.Scalar) -> Any:
    try:
        cell = value.as_py()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: column {name!r} is not UTF-8: write the file again with valid text."
        ) from error
    if isinstance(cell, str) and len(cell.encode("utf-8")) > MAX_BYTES:
        raise UserError(f"{where}: column {name!r} is longer than {MAX_BYTES:,} bytes: shorten or remove it.")
    return cell


def _check_columns(where: str, columns: Mapping[Column, str], there: Iterable[str]) -> None:
    for ours, theirs in columns.items():
        if theirs not in there:
            raise UserError(
                f"{where} has no column {theirs!r} for the {ours}; it has {', '.join(there) or 'none'}:"
                " correct the columns of this source."
            )


def _problem(
    where: str,
    line: int,
    row: Mapping[str, Any],
    columns: Mapping[Column, str],
    tier: Tier | None,
    answers_required: bool,
) -> RawProblem:
    values = {ours: _text(where, ours, theirs, row.get(theirs)) for ours, theirs in columns.items()}
    required: list[Column] = [
        "text",
        *(["id"] if "id" in columns else []),
        *(["answer"] if answers_required else []),
    ]
    for ours in required:
        if not (values.get(ours) or "").strip():
            raise UserError(
                f"{where} has an empty {ours} (column {columns.get(ours)!r}): fill it in or remove the row."
            )
    return RawProblem(
        line=line,
        source_id=values.get("id") or str(line),
        text=values["text"] or "",
        answer=values.get("answer"),
        solution=values.get("solution"),
        tier=_tier(where, values.get("tier"), tier),
    )


def _text(where: str, ours: str, theirs: str, value: Any) -> str | None:
    if isinstance(value, float) and math.isnan(value):  # how pandas writes a missing value
        return None
    if ours in _NUMBERS and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        kind = type(value).__name__
        raise UserError(
            f"{where}: the {ours} (column {theirs!r}) is of type {kind}, not a string: put it in quotes."
        )
    try:
        (value or "").encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: the {ours} (column {theirs!r}) contains a lone surrogate, which is not valid UTF-8: correct it."
        ) from error
    return value


def _tier(where: str, value: str | None, default: Tier | None) -> Tier:
    if value is None and default is not None:
        return default
    if value not in list(Tier):
        raise UserError(f"{where} has the tier {value!r}: use one of {_TIERS}.")
    return Tier(value)
