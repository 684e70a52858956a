"""Whether a local checkpoint is complete, from its file names, its config.json and the headers of its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import UserError

INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
MAX_HEADER_BYTES = 25_000_000  # that of a model of 20,000 tensors has 2 MB


def checkpoint_problem(folder: Path, context: int) -> str | None:
    """Return what is wrong with the checkpoint of a model that is to be served with a context of `context` tokens, or None.

    Reads no weights: the header of a safetensors file gives the length of the file, so that a truncated copy is found.
    """
    config = _object(folder / "config.json")
    if config is None:
        return f"{folder / 'config.json'} is not a JSON object: copy the complete checkpoint there"
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return f"{folder} has no tokenizer ({', '.join(TOKENIZERS)}): copy the complete checkpoint there"
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int) and limit < context and not _is_scaled(config):
        return f"max_model_len is {context:,}, but the context of {folder} ends at {limit:,}: lower max_model_len"
    names = _weight_names(folder)
    if not names:
        return f"{folder} has no *.safetensors weights: copy the complete checkpoint there"
    for name in names:
        if not (folder / name).is_file():
            return f"{folder / name} is missing: copy the complete checkpoint there"
        if not _is_whole(folder / name):
            return f"{folder / name} is truncated or not a safetensors file: copy it again"
    return None


def _is_scaled(config: dict[str, Any]) -> bool:
    """Whether the model's rotary embedding is scaled to a longer context."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return "factor" in scaling if isinstance(scaling, dict) else True


def _weight_names(folder: Path) -> list[str]:
    """Return the names of all weight files, from the index if there is one."""
    if not (folder / INDEX).is_file():
        return sorted(path.name for path in folder.glob("*.safetensors"))
    index = _object(folder / INDEX) or {}
    listed = index.get("weight_map")
    return sorted(set(map(str, listed.values()))) if isinstance(listed, dict) else []


def header_bytes(path: Path) -> int:
    """Return the length of the header that a safetensors file names in its first 8 bytes. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


@contextmanager
def complete_file(path: Path, remedy: str, setting: str = "") -> Iterator[None]:
    """Convert what safetensors raises in the block for the file at `path` to `UserError`. `setting`: what names it, for the
    sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        where = f"{setting}: {path}" if setting else str(path)
        raise UserError(f"{where} is not a complete safetensors file ({reason}): {remedy}") from error


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file has the length that its header gives: 8 bytes, the header, the tensors."""
    size, length = path.stat().st_size, header_bytes(path)
    with path.open("rb") as file:
        file.seek(8)
        if not 0 < length <= min(size, MAX_HEADER_BYTES):
            return False
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False
    return size == 8 + length + max(ends, default=0)


def _object(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
