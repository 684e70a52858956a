"""Access to data sets: streamed from the Hugging Face hub at a pinned commit, or read from a local copy of the same files.

No downloaded code is executed: only Parquet and JSON files are read, with the readers of this package.
The access token is read from the environment (`HF_TOKEN`) only, and never appears in a message.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from tasks.errors import UserError
from tasks.keys import HUB_TOKEN, read_key
from tasks.storage.arrow_records import parquet_records
from tasks.storage.input_bytes import file_digest
from tasks.storage.json_records import entry_records, holds_lines, line_records, whole_json
from tasks.storage.records import strict

Row = Mapping[str, Any]

SUFFIXES = (".json", ".jsonl", ".parquet")
COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 20.0
_BUFFER = 1 << 20
_COUNTED = re.compile(r"-\d+-of-\d+$")  # train-00000-of-00005


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSplit:
    """One split of one configuration of a data set on the hub. `source` is its name in the profile, for messages."""

    source: str
    hub_id: str
    config: str | None
    split: str


# --- the hub -----------------------------------------------------------------------------------------------------


@cache
def commit(source: str, hub_id: str, revision: str | None) -> str:
    """Resolve `revision` (a commit, branch or tag; None: the newest) of a data set to a commit (40 hex digits).

    A commit is returned unchanged, without a request. The result is cached per process, so that a run reads one commit
    throughout. Raises `UserError` as `reach` does.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    return reach(source, hub_id, revision)


def reach(source: str, hub_id: str, revision: str | None) -> str:
    """Request a data set at a revision from the hub once, and return its commit. Raises `UserError` if the hub does not
    respond within 20 s or has no such data set or revision."""
    from huggingface_hub import HfApi

    with _hub_errors(source, hub_id):
        info = HfApi(token=hub_token()).dataset_info(hub_id, revision=revision, timeout=_TIMEOUT_S)
        if info.sha is None:
            raise ValueError("the hub returned no commit")
    return info.sha


def hub_rows(split: HubSplit, revision: str, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Stream the rows of a split at a commit, in the order of its files, without storing anything on disk. `columns` as for
    `local_rows`.

    Raises `UserError` if the hub cannot be reached, if it has no such data set, configuration or split, or if a file is
    damaged or neither Parquet nor JSON.
    """
    from huggingface_hub import HfFileSystem

    with _hub_errors(split.source, split.hub_id, split.config):
        files = _hub_files(split, revision)
        system: Any = HfFileSystem(token=hub_token())
        for url in files:
            name = url.removeprefix("hf://")
            with io.BufferedReader(system.open(url, "rb"), _BUFFER) as file:
                yield from _rows(name, file, columns)


def _hub_files(split: HubSplit, revision: str) -> list[str]:
    """Return the URLs of a split's files. `datasets` finds them, by the card's configurations or by their names, and runs no
    script. It does not read them: its Parquet stream imports torch, and stopping early may abort the process
    (apache/arrow issue 45214)."""
    from datasets import load_dataset_builder

    builder = load_dataset_builder(split.hub_id, split.config, revision=revision, token=hub_token())
    splits = builder.config.data_files or {}
    if split.split not in splits:
        raise ValueError(
            f"it has no split {split.split!r}; its splits: {', '.join(map(str, splits)) or 'none'}"
        )
    files = [str(url) for url in splits[split.split]]
    if other := [url for url in files if not url.lower().endswith(SUFFIXES)]:
        raise ValueError(
            f"{other[0].rpartition('/')[2]} is not a {', '.join(SUFFIXES)} file; other types are not supported"
        )
    return files


def hub_token() -> str | bool:
    """Return the token of the environment, or False, which stops the library from looking for one on disk. Raises `UserError` if
    it cannot be sent."""
    return read_key(HUB_TOKEN) or False


@contextmanager
def _hub_errors(source: str, hub_id: str, config: str | None = None) -> Iterator[None]:
    """Turn every error of the underlying libraries into a `UserError` that names the source and the remedy."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries' errors have no common base class
        where = f"{hub_id}{f' ({config})' if config else ''}"
        if _is_refusal(error):
            what = f"{where} is not available from the Hugging Face hub"
            remedy = "correct its name, configuration, split or revision (gated data sets require HF_TOKEN)"
        else:
            what = f"{where} cannot be reached, since the Hugging Face hub does not respond"
            remedy = "check the network"
        raise UserError(
            f"Source {source}: {what} ({_short(error)}): {remedy}, or give a local copy of its files as `path` of the"
            f" source {source!r}."
        ) from error


def _is_refusal(error: BaseException) -> bool:
    """Whether the hub responded, but the data do not exist, are not accessible, or are not supported."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error.__cause__ or error.__context__, OfflineModeIsEnabled):
        return False
    refusals = DatasetsError, RepositoryNotFoundError, RevisionNotFoundError, RuntimeError, ValueError
    return isinstance(error, refusals)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


# --- local copies ------------------------------------------------------------------------------------------------


def local_files(source: str, path: Path, words: Sequence[str], *, alone: bool) -> tuple[Path, ...]:
    """Return the files of one part of a source in a local copy, sorted by name.

    `path` is a file or a folder. A file belongs to the part if each of `words` (configuration, split, ...) is a
    component of its path below the folder, ignoring suffixes and shard numbers (`-00000-of-00005`): `algebra/train.jsonl`,
    `train/algebra/7.json` and `algebra/train-00000-of-00001.parquet` all match (algebra, train). If the source has only
    one part (`alone`), a single file, or a folder without matching names, belongs to it entirely.

    Raises `UserError` if `path` does not exist or has no file of the part.
    """
    if path.is_file() and alone:
        found = [path] if path.suffix.lower() in SUFFIXES else []
    elif path.is_dir():
        every = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        found = [file for file in every if set(words) <= _steps(file.relative_to(path))]
        found = found or (every if alone else [])
    elif not path.exists():
        raise UserError(f"Source {source}: {path} does not exist: correct the path of this source.")
    else:
        found = []
    if not found:
        raise UserError(
            f"Source {source}: {path} has no {', '.join(SUFFIXES)} file for {'/'.join(words)}: give the folder of the files"
            f" as `path`, and name them accordingly, e.g. {'/'.join(words)}.jsonl."
        )
    return tuple(found)


def _steps(path: Path) -> set[str]:
    return {*path.parent.parts, _COUNTED.sub("", path.stem)}


def local_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows of a .jsonl, .parquet or .json file in order.

    A .json file contains an array of objects, one object, or one object per line. From a .parquet file only those of
    `columns` that exist are read (all columns if none of them does). Raises `UserError` naming file, line and remedy.
    """
    with path.open("rb") as file:
        yield from _rows(str(path), file, columns)


def _rows(name: str, file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
    if name.lower().endswith(".parquet"):
        rows = parquet_records(name, file, columns)
    elif holds_lines(file, lines_expected=name.lower().endswith(".jsonl")):
        rows = line_records(file)
    else:
        rows = entry_records(whole_json(name, file)[0])
    for row in strict(name, rows):
        yield row.values


def files_digest(files: Sequence[Path], root: Path) -> str:
    """Return the SHA-256 (hex) over the names relative to `root` and the contents of files, in the given order."""
    total = hashlib.sha256()
    for file in files:
        name = file.relative_to(root).as_posix() if file != root else file.name
        total.update(f"{name}\0{file_digest(file)}\n".encode())
    return total.hexdigest()
