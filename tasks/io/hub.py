"""The only door to data sets: the Hugging Face hub, streamed at a pinned commit, or a local copy of the same files.

Nothing that is downloaded is run: only Parquet and JSON are read, by our choice of reader and not the repository's.
The access token is read from the environment (`HF_TOKEN`) and from nowhere else, and stands in no message.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from tasks.core.errors import UserError
from tasks.io.seed_files import MAX_BYTES, Located, file_digest, jsonl_rows, parquet_rows

Row = Mapping[str, Any]

SUFFIXES = (".json", ".jsonl", ".parquet")
COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 20.0
_BUFFER = 1 << 20
_MAX_JSON_BYTES = 500_000_000  # of a file that must be parsed whole
_COUNTED = re.compile(r"-\d+-of-\d+$")  # train-00000-of-00005


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSplit:
    """One split of one configuration of a data set on the hub. `source` is its name in our settings, for messages."""

    source: str
    hub_id: str
    config: str | None
    split: str


# --- the hub -----------------------------------------------------------------------------------------------------


@cache
def commit(source: str, hub_id: str, revision: str | None) -> str:
    """The commit (40 hex digits) that `revision` (a commit, branch or tag; None: the newest) of a data set names.

    A commit is returned as it is, without asking the hub; the hub is asked once per process, so that all of a run reads
    the same commit. `UserError` as for `reach`.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    return reach(source, hub_id, revision)


def reach(source: str, hub_id: str, revision: str | None) -> str:
    """Ask the hub once for a data set at a revision, and return its commit. `UserError` when the hub does not answer
    within 20 s or has no such data set or revision."""
    from huggingface_hub import HfApi

    with _told(source, hub_id):
        info = HfApi(token=_token()).dataset_info(hub_id, revision=revision, timeout=_TIMEOUT_S)
        if info.sha is None:
            raise ValueError("the hub names no commit")
    return info.sha


def hub_rows(split: HubSplit, revision: str, columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a split at a commit, in the order of its files, streamed: nothing is stored on disk. `columns` as for
    `local_rows`.

    `UserError` when the hub cannot be reached, when it has no such data set, configuration or split, or when a file is
    neither Parquet nor JSON, or damaged.
    """
    from huggingface_hub import HfFileSystem

    with _told(split.source, split.hub_id, split.config):
        files = _hub_files(split, revision)
        system: Any = HfFileSystem(token=_token())
        for url in files:
            name = url.removeprefix("hf://")
            with io.BufferedReader(system.open(url, "rb"), _BUFFER) as file:
                yield from _rows(name, file, columns)


def _hub_files(split: HubSplit, revision: str) -> list[str]:
    """Addresses of a split's files. `datasets` finds them, by the card's configurations or by their names, and runs no
    script; the reading is ours, since its Parquet stream loads torch and may abort a process that leaves it early
    (apache/arrow issue 45214)."""
    from datasets import load_dataset_builder

    builder = load_dataset_builder(split.hub_id, split.config, revision=revision, token=_token())
    splits = builder.config.data_files or {}
    if split.split not in splits:
        raise ValueError(f"it has no split {split.split!r}, but {', '.join(map(str, splits)) or 'none'}")
    files = [str(url) for url in splits[split.split]]
    if other := [url for url in files if not url.lower().endswith(SUFFIXES)]:
        raise ValueError(
            f"{other[0].rpartition('/')[2]} is no {', '.join(SUFFIXES)} file, and nothing else is read"
        )
    return files


def _token() -> str | bool:
    """The token of the environment; False keeps the library from looking for one on disk."""
    return os.environ.get("HF_TOKEN") or False


@contextmanager
def _told(source: str, hub_id: str, config: str | None = None) -> Iterator[None]:
    """Every failure of the libraries below becomes one sentence that names the source and the remedy."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # httpx, huggingface_hub, datasets, fsspec, pyarrow: there is no common base
        where = f"{hub_id}{f' ({config})' if config else ''}"
        if _is_refusal(error):
            what = f"{where} is not to be had from the Hugging Face hub"
            remedy = "correct its name, configuration, split or revision (data behind a login need HF_TOKEN)"
        else:
            what = f"{where} is out of reach, since the Hugging Face hub does not answer"
            remedy = "mend the network"
        raise UserError(
            f"Source {source}: {what} ({_short(error)}): {remedy}, or give a local copy of its files as `path` of the"
            f" source {source!r}."
        ) from error


def _is_refusal(error: BaseException) -> bool:
    """Whether the hub answered, and what was asked for is not there, not allowed, or of no use here."""
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
    """The files of one part of a source in a local copy, sorted by name.

    `path` is a file or a folder. A file belongs to the part when every one of `words` (configuration, split, ...) is a
    step of its path below the folder, endings and shard numbers (`-00000-of-00005`) left out: `algebra/train.jsonl`,
    `train/algebra/7.json` and `algebra/train-00000-of-00001.parquet` all are (algebra, train). When the part is the
    source's only one (`alone`), a file, or a folder without any such name, is taken whole.
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
            f"Source {source}: {path} has no {', '.join(SUFFIXES)} file for {'/'.join(words)}: name the files after it,"
            f" e.g. {'/'.join(words)}.jsonl, in a folder given as `path`."
        )
    return tuple(found)


def _steps(path: Path) -> set[str]:
    return {*path.parent.parts, _COUNTED.sub("", path.stem)}


def local_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a .jsonl, .parquet or .json file in its order. A .json file holds an array of objects, one object, or
    one object per line. Of a .parquet file only those of `columns` that it has are read (all when it has none of them).
    `UserError` names file, line and remedy."""
    with path.open("rb") as file:
        yield from _rows(str(path), file, columns)


def _rows(name: str, file: IO[bytes], columns: Sequence[str]) -> Iterator[Row]:
    if name.lower().endswith(".parquet"):
        rows = parquet_rows(name, file, columns)
    elif name.lower().endswith(".jsonl") or _holds_lines(file):
        rows = jsonl_rows(name, file)
    else:
        rows = _whole_json(name, file)
    for _, _, row in rows:
        yield row


def _holds_lines(file: IO[bytes]) -> bool:
    """Whether the first line of a .json file is an object by itself; the file is at its start afterwards."""
    first = file.readline(MAX_BYTES).strip() or file.readline(MAX_BYTES)
    file.seek(0)
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _whole_json(name: str, file: IO[bytes]) -> Iterator[Located]:
    content = file.read(_MAX_JSON_BYTES + 1)
    if len(content) > _MAX_JSON_BYTES:
        raise UserError(
            f"{name} has more than {_MAX_JSON_BYTES:,} bytes: write one JSON object per line instead."
        )
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{name} is no valid JSON ({error}): correct it or write one object per line."
        ) from error
    for number, row in enumerate(data if isinstance(data, list) else [data], start=1):
        where = f"{name}, entry {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where} is no JSON object: write objects with named values.")
        yield where, number, row


def files_digest(files: Sequence[Path], root: Path) -> str:
    """SHA-256 (hex) over the names below `root` and the contents of files, in the given order."""
    total = hashlib.sha256()
    for file in files:
        name = file.relative_to(root).as_posix() if file != root else file.name
        total.update(f"{name}\0{file_digest(file)}\n".encode())
    return total.hexdigest()
