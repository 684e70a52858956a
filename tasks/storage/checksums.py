"""Checksums of everything that is read back from disk: Parquet files, checkpoints and the records that describe them.

A record (`record.json` of a shard, an artifact or a checkpoint, `manifest.json` of a dataset) lists the checksums of its files
(xxh3, 128 bits), and has one of its own. `verify` compares a file with the record next to it. Records of format 1, written before
there were checksums, are still read: their shards have a SHA-256, their datasets and checkpoints nothing to compare with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from tasks.errors import UserError

RECORD = "record.json"
MANIFEST = "manifest.json"
FORMAT = 2
"""Version of the records that are written."""
_OWN = ("format", "checksum")
_BLOCK = 1 << 20  # bytes


class Damaged(ValueError):
    """A record that is not what was written. The message completes the sentence "the file ...": "is not a JSON object"."""


class LaterFormat(Damaged):
    """A record that a later version of the project wrote."""


def checksum(path: Path) -> str:
    """Return the xxh3 checksum (32 hex digits) of a file."""
    total, block = xxhash.xxh3_128(), bytearray(_BLOCK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            total.update(memoryview(block)[:count])
    return total.hexdigest()


# --- records -----------------------------------------------------------------------------------------------------


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of JSON values with its format and its checksum, which `unsealed` verifies."""
    whole = {"format": FORMAT, **record}
    return {**whole, "checksum": _checksum_of(json.loads(json.dumps(whole)))}


def unsealed(text: str | bytes) -> dict[str, Any]:
    """Return the record in `text`, without its checksum. A record of format 1 has none.

    Raises `Damaged` if it is not JSON, was changed, or has the format of a later version (`LaterFormat`).
    """
    try:
        record = json.loads(text)
    except ValueError as error:  # also of bytes that are not UTF-8
        raise Damaged("is not valid JSON") from error
    if not isinstance(record, dict):
        raise Damaged("is not a JSON object")
    expected, written = record.pop("checksum", None), record.get("format", 1)
    if isinstance(written, int) and written > FORMAT:
        raise LaterFormat(f"{written_by(record)}, which is later than this one (format {FORMAT})")
    if expected is None and "format" in record:
        raise Damaged("has lost its checksum")
    if expected is not None and expected != _checksum_of(record):
        raise Damaged("does not have the checksum that it was written with")
    return record


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """Return the record in a file. Raises `UserError`, which ends with `remedy`, if it is missing, damaged or unreadable."""
    try:
        return unsealed(path.read_bytes())
    except Damaged as error:
        raise UserError(f"{path} {error}: {remedy}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from error


def written_by(record: Mapping[str, Any]) -> str:
    """Describe the version that wrote a record: 'was written by another version, sure-math 0.1.0 (format 1)
    on 2026-11-21'."""
    versions = record.get("versions")
    version = versions.get("sure-math", "") if isinstance(versions, Mapping) else ""
    when = str(record.get("finished_at") or "")[:10]
    return (
        f"was written by another version, sure-math{f' {version}' if version else ''} (format {record.get('format', 1)})"
        f"{f' on {when}' if when else ''}"
    )


def origin(path: Path) -> str:
    """Describe the version that wrote a Parquet file of an artifact or a dataset, by the record next to it."""
    for listing in (path.parent.parent / RECORD, path.parent.parent / MANIFEST, path.parent / RECORD):
        try:
            return written_by(json.loads(listing.read_bytes()))
        except (OSError, ValueError, AttributeError):
            continue
    return "was written by another version"


def _checksum_of(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode("ascii"))


# --- files -------------------------------------------------------------------------------------------------------


def verify(path: Path) -> None:
    """Raise `UserError` if a Parquet file is not what the `record.json` of its shard, or the `manifest.json` of its dataset,
    says. A file that no record lists is not checked."""
    for listing, name, remedy in (
        (path.parent / RECORD, path.stem, "start again, and the shard is made again from the ledger"),
        (
            path.parent.parent / MANIFEST,
            f"{path.parent.name}/{path.name}",
            "restore the file, or export the dataset again",
        ),
    ):
        try:
            entry = _entry(listing, name)
        except Damaged as error:
            raise UserError(f"{listing} {error}: {remedy}") from error
        if entry is not None and not is_intact(path, entry):
            raise UserError(
                f"{path} is damaged: its bytes differ from the checksum in {listing.name}; {remedy}"
            )


def is_intact(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a file has the checksum of its entry in a record: `xxh3`, or `digest` (SHA-256) in format 1.

    Raises `FileNotFoundError` if there is no such file.
    """
    if (expected := entry.get("xxh3")) is not None:
        return checksum(path) == expected
    if (expected := entry.get("digest")) is None:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == expected


def _entry(listing: Path, name: str) -> Mapping[str, Any] | None:
    """Return what a record says about one of its tables or files; None if there is no record, or it does not list it."""
    try:
        record = unsealed(listing.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damaged(f"cannot be read ({error.strerror})") from error
    listed = record.get("tables", record.get("files"))
    entry = listed.get(name) if isinstance(listed, Mapping) else None
    if entry is None or isinstance(entry, Mapping):
        return entry
    return {"xxh3": entry}
