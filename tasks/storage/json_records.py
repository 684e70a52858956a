"""Rows of JSON files: one object per line, an array of objects, or an object that contains the rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from tasks.errors import UserError
from tasks.storage.records import MAX_BYTES, Fault, Record

MAX_JSON_BYTES = 500_000_000
"""Largest JSON file that is parsed as a whole."""
_ARRAY = re.compile(rb"\[\s*(?:\{|$)")  # the start of an array of objects


def holds_lines(file: IO[bytes], *, lines_expected: bool) -> bool:
    """Whether a JSON file has one object per line. Rewinds the file.

    `lines_expected`: the name of the file says so. Then only an array of objects, or an object that starts on a line of its own,
    is read as a whole; otherwise the first line must be a complete object and not the only line.
    """
    first = b""
    for line in iter(lambda: file.readline(MAX_BYTES), b""):
        first = line.removeprefix(b"\xef\xbb\xbf").strip()
        if first:
            break
    more = any(line.strip() for line in iter(lambda: file.readline(MAX_BYTES), b""))
    file.seek(0)
    if lines_expected:
        return not (_ARRAY.match(first) or (first == b"{" and more))
    return more and first.startswith(b"{") and first.endswith(b"}")


def line_records(file: IO[bytes]) -> Iterator[Record | Fault]:
    """Yield the object of every non-blank line, or a fault for a line that is not a JSON object."""
    for number, line in numbered_lines(file):
        where = f"line {number}"
        if isinstance(line, Fault):
            yield line
        elif line.strip():
            yield _parsed(where, number, line)


def numbered_lines(file: IO[bytes]) -> Iterator[tuple[int, str | Fault]]:
    """Yield (number, text) for every line, with a fault for a line that is too long or is not UTF-8."""
    offset = number = 0
    while line := file.readline(MAX_BYTES + 1):
        number += 1
        if len(line) > MAX_BYTES:
            while line and not line.endswith(b"\n"):
                offset += len(line)
                line = file.readline(MAX_BYTES + 1)
            sentence = f"line {number} is longer than {MAX_BYTES:,} bytes: shorten or remove it."
            yield number, Fault(sentence=sentence)
        else:
            yield number, _decoded(number, line, offset)
        offset += len(line)


def _decoded(number: int, line: bytes, offset: int) -> str | Fault:
    try:
        return line.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        place = f"byte {offset + error.start:,} of the file is 0x{line[error.start]:02x}"
        return Fault(sentence=f"line {number} is not UTF-8 ({place}): save the file as UTF-8.")


def _parsed(where: str, number: int, line: str) -> Record | Fault:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, character {error.pos + 1}"
        remedy = "write backslashes doubled" if "escape" in error.msg else "write one JSON object per line"
        return Fault(sentence=f"{where} is not valid JSON ({reason}): {remedy}.")
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        return Fault(sentence=f"{where} cannot be read as JSON ({error}): correct or remove it.")
    return _record(where, number, row)


def _record(where: str, number: int, row: Any) -> Record | Fault:
    if isinstance(row, dict):
        return Record(where=where, line=number, values=row)
    return Fault(sentence=f"{where} is not a JSON object: write objects with named values.")


def whole_json(name: str, file: IO[bytes]) -> tuple[tuple[Any, ...], str | None]:
    """Parse a file as a whole and return its entries, and a notice on how they were found if they are inside an object.

    Raises `UserError` if it is too large or is not JSON.
    """
    content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise UserError(f"{name} is larger than {MAX_JSON_BYTES:,} bytes: write one JSON object per line.")
    try:
        values = _values(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno}, column {error.colno}"
        raise UserError(
            f"{name} is not valid JSON ({reason}): correct it or write one object per line."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{name} cannot be read as JSON ({error}): correct it or write one object per line."
        ) from error
    if len(values) != 1:
        return tuple(values), None
    if isinstance(values[0], list):
        return tuple(values[0]), None
    return _inside(values[0])


def entry_records(entries: Iterable[Any]) -> Iterator[Record | Fault]:
    """Yield a record for every entry, or a fault for one that is not an object."""
    for number, row in enumerate(entries, start=1):
        yield _record(f"entry {number}", number, row)


def _values(text: str) -> list[Any]:
    """Return the JSON values of a text; several may follow one another."""
    decoder, values, place = json.JSONDecoder(), [], 0
    while True:
        while place < len(text) and text[place].isspace():
            place += 1
        if place == len(text) and values:
            return values
        value, place = decoder.raw_decode(text, place)
        values.append(value)


def _inside(value: Any) -> tuple[tuple[Any, ...], str | None]:
    """Return the rows inside an object: its only list of objects, its columns, or its entries by number; else the object."""
    if not isinstance(value, dict):
        return (value,), None
    lists = [key for key, found in value.items() if _is_list_of_objects(found)]
    if len(lists) == 1 and not _is_chat(value[lists[0]]):
        return tuple(value[lists[0]]), f"the rows are in the list {lists[0]!r}"
    if (columns := _columns(value)) is not None:
        return tuple(columns), "the file has one entry per column"
    if len(value) > 0 and all(key.isdecimal() and isinstance(found, dict) for key, found in value.items()):
        return tuple(value.values()), "the rows are the values of one object"
    return (value,), None


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_chat(rows: Sequence[Mapping[str, Any]]) -> bool:
    return all({"role", "content"} <= row.keys() or {"from", "value"} <= row.keys() for row in rows)


def _columns(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the rows of {column: {row: cell}} (keys 0, 1, ...) or {column: [cells]} with columns of one length, or None."""
    columns = list(value.values())
    if len(columns) < 2:
        return None
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        if not all(key.isdecimal() for key in columns[0]):
            return None
        return [{name: value[name][key] for name in value} for key in columns[0]]
    if all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return None
