"""Write rows to Parquet and read them back: one pyarrow schema per row dataclass; the same rows always give the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from enum import StrEnum
from functools import cache
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import UserError
from tasks.storage.checksums import origin, verify
from tasks.storage.disk import disk_errors

Row = TypeVar("Row")

ROW_GROUP = 1000  # rows
_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@cache
def schema(row_type: type) -> pa.Schema:
    """Return the Arrow schema of a row dataclass.

    Supports fields of type str, int, float, bool, string enums, `tuple[T, ...]` of these, and `X | None` (nullable).
    Raises `TypeError` naming the field for any other type.
    """
    hints = get_type_hints(row_type)
    return pa.schema(
        [_field(f"{row_type.__name__}.{f.name}", f.name, hints[f.name]) for f in fields(row_type)]
    )


def write_rows(path: Path, row_type: type[Row], rows: Iterable[Row] | pa.Table) -> int:
    """Write rows, or a table of them, to a Parquet file, fsync it and return the number of rows. The bytes depend on the rows
    alone.

    Raises `ValueError` naming column and row for a value of the wrong type, and `UserError` if the disk is full; the file
    is removed on any error.
    """
    written = needed = 0
    try:
        with disk_errors(path, lambda: needed), path.open("wb") as file:
            with pq.ParquetWriter(
                file,
                schema(row_type),
                version="2.6",
                data_page_version="1.0",
                compression="zstd",
                compression_level=3,
            ) as writer:
                for table in _groups(path, row_type, rows):
                    written, needed = written + len(table), needed + table.nbytes
                    writer.write_table(table, row_group_size=ROW_GROUP)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return written


def read_table(path: Path, row_type: type[Row], columns: Sequence[str] | None = None) -> pa.Table:
    """Return the file, or some of its columns, as a table. Raises the errors of `iter_rows`, but does not check enum values."""
    wanted = schema(row_type)
    with _reading(path, row_type) as file:
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
        absent = set(wanted.names) - set(file.schema_arrow.names)
    for name in (name for name in wanted.names if name in absent and (columns is None or name in columns)):
        table = table.append_column(wanted.field(name), pa.nulls(len(table), wanted.field(name).type))
    return table


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """Return all rows of a file written by `write_rows`. Raises the errors of `iter_rows`."""
    return list(iter_rows(path, row_type))


def iter_rows(path: Path, row_type: type[Row], batch: int = ROW_GROUP) -> Iterator[Row]:
    """Yield the rows of a file in order, with `batch` of them in memory at a time.

    Columns that were added to `row_type` since the file was written are None (see `later_columns`).

    Raises `UserError` naming the file if it is missing or damaged, has another schema (naming the column), or contains
    a value that is not a member of its enum (naming column and row).
    """
    with _reading(path, row_type) as file:
        done = 0
        for part in file.iter_batches(batch_size=batch, use_threads=False):
            yield from _rows(path, row_type, part, done)
            done += part.num_rows


def later_columns(path: Path, row_type: type) -> tuple[str, ...]:
    """Return the columns of `row_type` that the file lacks because it is older: nullable ones at the end, with default None.

    Raises the errors of `iter_rows`.
    """
    with _reading(path, row_type) as file:
        found = set(file.schema_arrow.names)
    return tuple(name for name in schema(row_type).names if name not in found)


@contextmanager
def _reading(path: Path, row_type: type) -> Iterator[pq.ParquetFile]:
    """Open a file of the schema of `row_type`. Raises `UserError` if it is missing or damaged or has another schema."""
    try:
        verify(path)
        with pq.ParquetFile(path) as file:
            _check_schema(path, row_type, file.schema_arrow)
            yield file
    except FileNotFoundError as error:
        raise UserError(f"File {path} does not exist: run the stage that writes it again.") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} cannot be read ({reason}): delete its folder and run the stage again."
        ) from error


def _field(where: str, name: str, annotation: Any) -> pa.Field:
    kind, nullable = _without_none(annotation)
    if get_origin(kind) is tuple:
        args = get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            return pa.field(name, pa.list_(_field(where, "element", args[0])), nullable=nullable)
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        return pa.field(name, pa.string(), nullable=nullable)
    elif kind in _SCALARS:
        return pa.field(name, _SCALARS[kind], nullable=nullable)
    raise TypeError(f"{where} has the type {annotation}, which is not supported as a column type")


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """(X, True) for `X | None`, (X, False) for X."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation, False
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return (kinds[0], True) if len(kinds) == 1 else (annotation, True)


def _groups(path: Path, row_type: type, rows: Iterable[Any] | pa.Table) -> Iterator[pa.Table]:
    """Yield tables of one row group each."""
    if isinstance(rows, pa.Table):
        yield from _cut(path, row_type, rows)
        return
    numbered, written = iter(rows), 0
    while chunk := list(islice(numbered, ROW_GROUP)):
        yield _table(path, row_type, chunk, written)
        written += len(chunk)


def _cut(path: Path, row_type: type, table: Any) -> Iterator[pa.Table]:
    if not table.schema.remove_metadata().equals(schema(row_type)):
        names = ", ".join(table.schema.names)
        raise ValueError(f"{path.name}: the columns {names} do not match the schema of {row_type.__name__}")
    for start in range(0, len(table), ROW_GROUP):
        yield table.slice(start, ROW_GROUP).combine_chunks()


def _table(path: Path, row_type: type, chunk: Sequence[Any], before: int) -> pa.Table:
    wanted = schema(row_type)
    columns = [_column(path, field, [getattr(row, field.name) for row in chunk], before) for field in wanted]
    return pa.Table.from_arrays(columns, schema=wanted)


def _column(path: Path, field: pa.Field, values: list[Any], before: int) -> pa.Array:
    try:
        return _checked_array(field, values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        for index, value in enumerate(values):
            try:
                _checked_array(field, [value])
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                where = f"{path.name}: column {field.name}, row {before + index}"
                raise ValueError(
                    f"{where}: {repr(value)[:100]} is not a valid {field.type} ({error})"
                ) from error
        raise


def _checked_array(field: pa.Field, values: list[Any]) -> pa.Array:
    array = pa.array(values, type=field.type)
    inner = field.type.value_field if pa.types.is_list(field.type) else None
    if array.null_count and not field.nullable:
        raise ValueError("a value is missing")
    if inner is not None and not inner.nullable and array.flatten().null_count:
        raise ValueError("an element is missing")
    return array


def _check_schema(path: Path, row_type: type, found: pa.Schema) -> None:
    wanted, name = schema(row_type), row_type.__name__
    if len(found) < len(wanted) and set(wanted.names[len(found) :]) <= _optional(row_type):
        wanted = pa.schema(list(wanted)[: len(found)])
    if found.remove_metadata().equals(wanted):
        return
    for field in wanted:
        if field.name not in found.names:
            problem = f"has no column {field.name!r}, which {name} has"
        elif not found.field(field.name).equals(field):
            problem = (
                f"has the column {_described(found.field(field.name))}, but {name} has {_described(field)}"
            )
        else:
            continue
        break
    else:
        extra = [column for column in found.names if column not in wanted.names]
        problem = (
            f"has the column {extra[0]!r}, which {name} does not have"
            if extra
            else f"has its columns in another order than {name}"
        )
    raise UserError(f"{path} {problem}: it {origin(path)}; delete its folder and run the stage again.")


@cache
def _optional(row_type: type) -> frozenset[str]:
    """Return the fields that an older file may lack at its end: nullable ones with default None."""
    return frozenset(f.name for f in fields(row_type) if f.default is None)


def _described(field: pa.Field) -> str:
    return f"{field.name!r} as {field.type}{'' if field.nullable else ' not null'}"


@cache
def _converters(row_type: type) -> tuple[Callable[[Any], Any] | None, ...]:
    """Per field, the function that converts a value from Arrow to the field's type; None if they are the same."""
    hints = get_type_hints(row_type)
    return tuple(_converter(hints[f.name]) for f in fields(row_type))


def _converter(annotation: Any) -> Callable[[Any], Any] | None:
    kind, nullable = _without_none(annotation)
    if get_origin(kind) is tuple:
        inner = _converter(get_args(kind)[0])
        convert: Callable[[Any], Any] = tuple if inner is None else lambda values: tuple(map(inner, values))
    elif issubclass(kind, StrEnum):
        convert = _member_of(kind)
    else:
        return None
    return (lambda value: None if value is None else convert(value)) if nullable else convert


def _member_of(kind: type[StrEnum]) -> Callable[[Any], StrEnum]:
    """Return a function equivalent to calling the enum, but several times faster for its members."""
    members = {member.value: member for member in kind}
    return lambda value: members.get(value) or kind(value)


def _rows(path: Path, row_type: type[Row], part: pa.RecordBatch, before: int) -> Iterator[Row]:
    names, columns = part.schema.names, []
    converters = _converters(row_type)[: len(names)]
    for name, column, convert in zip(names, part.columns, converters, strict=True):
        values = column.to_pylist()
        columns.append(values if convert is None else _converted(path, name, values, convert, before))
    for values in zip(*columns, strict=True):
        yield row_type(**dict(zip(names, values, strict=True)))


def _converted(
    path: Path, name: str, values: list[Any], convert: Callable[[Any], Any], before: int
) -> list[Any]:
    converted = []
    for index, value in enumerate(values):
        try:
            converted.append(convert(value))
        except ValueError as error:
            raise UserError(
                f"{path}: column {name}, row {before + index}: {error}; it {origin(path)}: delete its folder and run the stage"
                " again."
            ) from error
    return converted
