"""Rows of Parquet and Arrow files and of folders that `datasets` wrote with `save_to_disk`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import UserError
from tasks.storage.input_bytes import MAX_FILE_BYTES
from tasks.storage.records import Fault, Record

_BATCH = 1000  # rows read at once


def parquet_records(name: str, file: IO[bytes], columns: Iterable[str] = ()) -> Iterator[Record | Fault]:
    """Yield the rows of an open Parquet file: those of `columns` that exist, or all columns if none of them does.

    Columns with binary values are not read. Raises `UserError` for a damaged file or one whose columns are too large.
    """
    # Pre-buffering reads in threads of Arrow, which may still hold a Python buffer when the interpreter exits: the process
    # then aborts ("terminate called without an active exception").
    with _reading(name, "Parquet"), pq.ParquetFile(file, pre_buffer=False) as table:
        there = table.schema_arrow.names
        wanted = [column for column in dict.fromkeys(columns) if column in there] or there
        wanted = [column for column in wanted if not is_binary(table.schema_arrow.field(column).type)]
        batches = table.iter_batches(batch_size=_BATCH, columns=wanted, use_threads=False)
        yield from _records(name, batches, wanted, 0)


def arrow_records(name: str, file: IO[bytes], *, stream: bool, start: int = 0) -> Iterator[Record | Fault]:
    """Yield the rows of an open Arrow file (IPC file or stream format), without columns of binary values; numbers of rows begin
    after `start`. Raises `UserError` for a damaged file."""
    with _reading(name, "Arrow"):
        reader: Any = pa.ipc.open_stream(file) if stream else pa.ipc.open_file(file)
        wanted = [field.name for field in reader.schema if not is_binary(field.type)]
        yield from _records(name, _checked(reader, stream), wanted, start)


def column_names(name: str, file: IO[bytes], kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the columns that are read, and of those with binary values. `kind`: parquet, arrow or stream."""
    with _reading(name, "Parquet" if kind == "parquet" else "Arrow"):
        if kind == "parquet":
            schema = pq.read_schema(file)
        else:
            schema = (pa.ipc.open_stream if kind == "stream" else pa.ipc.open_file)(file).schema
        file.seek(0)
        binary = tuple(field.name for field in schema if is_binary(field.type))
        return tuple(found for found in schema.names if found not in binary), binary


def saved_files(folder: Path) -> tuple[Path, ...]:
    """Return the Arrow files of a folder that `Dataset.save_to_disk` wrote, in order; of a `DatasetDict` with one split, that
    split's. Raises `UserError` for any other folder."""
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = [
                str(split) for split in json.loads((folder / "dataset_dict.json").read_text())["splits"]
            ]
            if len(splits) != 1:
                raise UserError(
                    f"{folder} has the splits {', '.join(splits)}: give one of them, e.g. {folder / splits[0]}."
                )
            return saved_files(folder / Path(splits[0]).name)
        state = json.loads((folder / "state.json").read_text())
        names = [Path(str(entry["filename"])).name for entry in state["_data_files"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder} is a folder that `save_to_disk` of datasets did not write: give one file."
        ) from error
    if not names:
        raise UserError(f"{folder} contains no problems: add at least one row or remove this source.")
    return tuple(folder / name for name in names)


def is_binary(kind: pa.DataType) -> bool:
    """Whether a type has binary values, at any depth."""
    todo = [kind]
    while todo:
        one = todo.pop()
        if pa.types.is_binary(one) or pa.types.is_large_binary(one) or pa.types.is_fixed_size_binary(one):
            return True
        todo += [one.field(index).type for index in range(one.num_fields)]
    return False


@contextmanager
def _reading(name: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
        MemoryError,
    ) as error:  # also sizes that are not true
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} is not a readable {kind} file ({reason}): write it again.") from error


def _checked(reader: Any, stream: bool) -> Iterator[pa.RecordBatch]:
    batches = reader if stream else map(reader.get_batch, range(reader.num_record_batches))
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _records(
    name: str, batches: Iterable[pa.RecordBatch], wanted: Sequence[str], start: int
) -> Iterator[Record | Fault]:
    number, size = start, 0
    for batch in batches:
        size += batch.nbytes
        if size > MAX_FILE_BYTES:
            raise UserError(
                f"{name} has more than {MAX_FILE_BYTES:,} bytes when decompressed: divide it into smaller files."
            )
        for offset in range(0, batch.num_rows, _BATCH):
            part = batch.slice(offset, _BATCH).select(wanted)
            for index, row in enumerate(_rows(part)):
                number += 1
                where = f"row {number}"
                yield (
                    Record(where=where, line=number, values=row)
                    if row is not None
                    else _not_utf8(where, part, index)
                )


def _rows(part: pa.RecordBatch) -> Iterable[dict[str, Any] | None]:
    """Return the rows of a batch, with None for one that contains text that is not UTF-8."""
    try:
        return part.to_pylist()
    except UnicodeDecodeError:
        return [_row_or_none(part, index) for index in range(part.num_rows)]


def _row_or_none(part: pa.RecordBatch, index: int) -> dict[str, Any] | None:
    try:
        return part.slice(index, 1).to_pylist()[0]
    except UnicodeDecodeError:
        return None


def _not_utf8(where: str, part: pa.RecordBatch, index: int) -> Fault:
    for name in part.schema.names:
        try:
            part.column(name)[index].as_py()
        except UnicodeDecodeError:
            return Fault(
                sentence=f"{where}: column {name!r} is not UTF-8: write the file again with valid text."
            )
    raise AssertionError("every column is UTF-8")
