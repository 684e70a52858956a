"""The identity of a model: a hash of its files, independent of their location."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from tasks.errors import UserError

_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def model_identity(path_or_id: str, revision: str | None, root: Path) -> str:
    """Return the identity of a model.

    For a local model this is `folder name:16 hex digits`, a hash over the bytes of its weights, configuration, tokenizer
    and chat template, which does not depend on the parent folders; for a hub model `id@revision` (`id@main` without a
    revision).

    A name is local if it is absolute, starts with `.` or `~`, or begins with a folder of `root`; everything
    else is a hub id. Raises `UserError` for a local folder that does not exist or contains no model, and for a name
    that is neither.
    """
    if not _is_local(path_or_id, root):
        if not _HUB_ID.fullmatch(path_or_id):
            raise UserError(
                f"Model {path_or_id!r} is neither a folder nor a hub id such as Qwen/Qwen3-1.7B: correct the"
                " name."
            )
        return f"{path_or_id}@{revision or 'main'}"
    folder = (root / Path(path_or_id).expanduser()).resolve()
    if not folder.is_dir():
        raise UserError(
            f"Model folder {folder} does not exist: correct the model setting or put the model there."
        )
    weights = sorted(file.name for file in folder.glob("*.safetensors"))
    if not weights:
        raise UserError(
            f"Model folder {folder} contains no *.safetensors weights: put the complete model there."
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"Model folder {folder} contains no config.json: put the complete model there.")
    total = hashlib.sha256()
    for name in [*(name for name in _FILES if (folder / name).is_file()), *weights]:
        state = (folder / name).stat()
        total.update(f"{name}\0{_file_hash(folder / name, state.st_size, state.st_mtime_ns)}\n".encode())
    return f"{folder.name}:{total.hexdigest()[:16]}"


def _is_local(path_or_id: str, root: Path) -> bool:
    first = Path(path_or_id).parts[:1]
    return path_or_id.startswith(("/", ".", "~")) or (bool(first) and (root / first[0]).is_dir())


@lru_cache(maxsize=256)
def _file_hash(path: Path, size: int, changed_ns: int) -> str:
    """Return the SHA-256 (hex) of a file, cached by size and modification time, since several roles may share a model."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
