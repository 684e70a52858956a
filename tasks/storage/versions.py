"""Versions of a dataset: a new version is written next to the old one and shares every file in which no row changed.

`<root>/latest.json` contains the path of the newest version: `<root>/dataset`, as exported by the flow sure-math, or
`<root>/versions/<fingerprint>/dataset`. Files of a dataset are never changed in place, so shared files are hard links, or
copies with a verified digest if the file system does not support links.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from tasks.errors import UserError
from tasks.rows import Example, Response
from tasks.storage.checksums import sealed, unsealed
from tasks.storage.dataset import FLAGGED, RESPONSES, ROWS_PER_FILE, describe, write_papers
from tasks.storage.disk import atomic_write
from tasks.storage.manifest import DATA, Manifest, parquet_files
from tasks.storage.tables import iter_rows, later_columns, read_rows, write_rows

Row = TypeVar("Row", Example, Response)

LATEST = "latest.json"
FOLDER = "versions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Differences between a new version and the old one. An updated row without an entry in `responses` keeps its responses."""

    updated: Mapping[str, Example] = field(default_factory=dict)  # id -> the row that replaces the old one
    removed: frozenset[str] = frozenset()  # ids
    added: Mapping[str, Sequence[Example]] = field(default_factory=dict)  # split -> new rows
    responses: Mapping[str, Sequence[Response]] = field(default_factory=dict)  # id -> all of its responses

    @property
    def size(self) -> int:
        """Number of rows that differ."""
        return len(self.updated) + len(self.removed) + sum(len(rows) for rows in self.added.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Number of Parquet files of a version that it shares with the old one, and of those written anew."""

    shared: int
    written: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _File(Generic[Row]):
    """One file of the new version; `source` is the old file if it is unchanged."""

    rows: Sequence[Row]
    source: Path | None = None


def latest(root: Path) -> dict[str, Any]:
    """Return the content of `latest.json` in an output folder, which describes the newest version.

    The paths of dataset and report are stored relative to `root`, so that the folder can be moved; they are returned with
    `root` prepended. Raises `UserError` if there is no finished dataset.
    """
    path = root / LATEST
    try:
        found = unsealed(path.read_bytes())
        return {**found, **{name: str(root / found[name]) for name in ("dataset", "report")}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{root} contains no finished dataset ({path.name} is missing or damaged): build one first (make build)"
        ) from error


def write_latest(root: Path, found: Mapping[str, Any]) -> None:
    """Write `latest.json`, with paths relative to `root`."""
    atomic_write(root / LATEST, json.dumps(sealed(found), indent=2) + "\n")


def read_examples(folder: Path, split: str) -> list[Example]:
    """Return all problems of a split, flagged ones last. Raises the errors of `tasks.storage.tables.iter_rows`."""
    return [
        row
        for name in (DATA, FLAGGED)
        for path in split_files(folder, name, split)
        for row in read_rows(path, Example)
    ]


def read_responses(folder: Path, split: str) -> Iterator[Response]:
    """Yield the responses of a split, file by file. Raises the errors of `tasks.storage.tables.iter_rows`."""
    for path in split_files(folder, RESPONSES, split):
        yield from iter_rows(path, Response)


def split_files(folder: Path, name: str, split: str) -> list[Path]:
    """Return the Parquet files of one split in the folder `name` of a dataset, in order. Raises the errors of
    `tasks.storage.manifest.parquet_files`."""
    return parquet_files(folder, f"{name}/{split}-*.parquet")


def splits_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the dataset's splits."""
    return () if manifest.contents is None else tuple(row.split for row in manifest.contents.splits)


def write_version(place: Path, old: Path, changes: Changes, manifest: Manifest) -> Shared:
    """Apply `changes` to the dataset `old` and write the result to the empty folder `place`.

    `manifest` has the contents of the old version, which are computed again. Rows stay in their files; added rows are
    written to new files. Replaced responses take the position of the first of the old ones. The caller makes the
    folder appear atomically (see `tasks.storage.disk.whole_folder`).
    """
    examples: dict[str, list[Example]] = {}
    responses: dict[str, list[Response]] = {}
    counts = []
    for split in dict.fromkeys([*splits_of(manifest), *changes.added]):
        added = changes.added.get(split, ())
        updated = {row_id: (row,) for row_id, row in changes.updated.items()}
        examples[split], responses[split] = [], []
        for name, flag in ((DATA, False), (FLAGGED, True)):
            new = [row for row in added if row.benchmark_overlap is flag]
            files = list(
                _files(split_files(old, name, split), Example, _own_id, updated, changes.removed, new)
            )
            counts.append(_write(place / name, split, Example, files))
            examples[split] += _rows(files)
        answers = [response for row in added for response in changes.responses[row.id]]
        paths = split_files(old, RESPONSES, split)
        written = list(_files(paths, Response, _problem_id, changes.responses, changes.removed, answers))
        counts.append(_write(place / RESPONSES, split, Response, written))
        responses[split] = _rows(written)
    contents = describe(
        {split: rows for split, rows in examples.items() if rows},
        {split: rows for split, rows in responses.items() if rows},
    )
    write_papers(place, replace(manifest, contents=contents))
    return Shared(shared=sum(one for one, _ in counts), written=sum(other for _, other in counts))


def _own_id(row: Example) -> str:
    return row.id


def _problem_id(row: Response) -> str:
    return row.problem_id


def _files(
    paths: Sequence[Path],
    row_type: type[Row],
    key: Callable[[Row], str],
    changed: Mapping[str, Sequence[Row]],
    removed: frozenset[str],
    added: Sequence[Row],
) -> Iterator[_File[Row]]:
    """Yield the files of the new version in order; files without remaining rows are omitted, and those of an older version, which
    lack columns, are written again, so that all files of a config have the same columns."""
    placed: set[str] = set()
    for path in paths:
        rows, kept = read_rows(path, row_type), []
        for row in rows:
            name = key(row)
            if name in changed and name not in placed:
                kept.extend(changed[name])
                placed.add(name)
            elif name not in changed and name not in removed:
                kept.append(row)
        same = len(kept) == len(rows) and all(one is other for one, other in zip(kept, rows, strict=True))
        if kept:
            yield _File(rows=kept, source=path if same and not later_columns(path, row_type) else None)
    for start in range(0, len(added), ROWS_PER_FILE):
        yield _File(rows=added[start : start + ROWS_PER_FILE])


def _rows(files: Sequence[_File[Row]]) -> list[Row]:
    return [row for file in files for row in file.rows]


def _write(folder: Path, split: str, row_type: type[Row], files: Sequence[_File[Row]]) -> tuple[int, int]:
    """Write the files of one split; return the number of shared and of written ones."""
    for number, file in enumerate(files):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{split}-{number:05d}-of-{len(files):05d}.parquet"
        if file.source is None:
            write_rows(path, row_type, file.rows)
        else:
            share(file.source, path)
    shared = sum(file.source is not None for file in files)
    return shared, len(files) - shared


def share(source: Path, path: Path) -> None:
    """Make `path` a hard link to `source`, or a verified copy if links are not supported or the file has too many.

    Raises `UserError` if the copy differs, which only a failing disk can cause.
    """
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)
        if _digest(source) != _digest(path):
            raise UserError(
                f"the copy {path} differs from {source}: check the disk, then start again"
            ) from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
