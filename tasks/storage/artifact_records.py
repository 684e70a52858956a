"""The records of artifacts and shards: read with their checksums and keys, and compared with the files that they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.errors import UserError
from tasks.storage.checksums import RECORD, LaterFormat, is_intact, unsealed


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)  # other keys are allowed: a stage adds its own


class _Table(_Strict):
    rows: int
    bytes: int
    digest: str
    xxh3: str | None = None  # missing in format 1


class _Counts(_Strict):
    incoming: int = Field(alias="in")
    kept: int
    rejected: dict[str, int]


class ShardRecord(_Strict):
    """The keys that every record of a shard has."""

    shard: int
    tables: dict[str, _Table]
    counts: _Counts


class ArtifactRecord(_Strict):
    """The keys that every record of an artifact has."""

    fingerprint: str
    num_shards: int
    num_rows: int
    tables: dict[str, int]
    counts: _Counts


def table_path(shard: Path, table: str) -> Path:
    """Return the path of a table's Parquet file inside a shard's folder."""
    return shard / f"{table}.parquet"


def damaged_table(
    shard: Path,
    record: Mapping[str, Any],
    compare: Callable[[Path, Mapping[str, Any]], str | None] | None = None,
) -> str | None:
    """Describe the first table that is missing or, by `compare` (default: size and checksum), not what was written."""
    for name, table in record["tables"].items():
        path = table_path(shard, name)
        try:
            wrong = (compare or _content)(path, table)
        except OSError as error:
            return f"{path.name} cannot be read ({error.strerror})"
        if wrong is not None:
            return f"{path.name} {wrong}"
    return None


def size_difference(path: Path, table: Mapping[str, Any]) -> str | None:
    """Describe how the size of a file differs from its entry in a record."""
    size = path.stat().st_size
    return None if size == table["bytes"] else f"has {size:,} bytes instead of {table['bytes']:,}"


def _content(path: Path, table: Mapping[str, Any]) -> str | None:
    state = path.stat()
    expected = (table.get("xxh3"), table["digest"])
    same = _matches(path, state.st_ino, state.st_size, state.st_mtime_ns, expected)
    return size_difference(path, table) or (None if same else "differs from its checksum")


@lru_cache(maxsize=1 << 16)
def _matches(path: Path, _inode: int, _size: int, _changed: int, expected: tuple[str | None, str]) -> bool:
    """Compare a file with its checksum, once for each state of the file."""
    return is_intact(path, {"xxh3": expected[0], "digest": expected[1]})


def read_record(folder: Path, kind: type[BaseModel]) -> dict[str, Any] | None:
    """Return the record in a folder; None if it is missing, damaged or not of its kind. Raises `UserError` if it is of a later
    version, or cannot be read."""
    path = folder / RECORD
    try:
        record = unsealed(path.read_bytes())
        kind.model_validate(record)
    except LaterFormat as error:
        raise UserError(f"{path} {error}: use that version, or delete the folder {folder.name}") from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable") from error
    return record
