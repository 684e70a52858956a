"""The folder of a local model, and what its tokenizer file names."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tasks.errors import UserError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def model_folder(model: str, root: Path) -> Path | None:
    """Return the folder of a local model (relative to `root`), or None if `model` is a hub id.

    Raises `UserError` if the name is a folder's (it is a path, or its first part exists under `root`) that does not exist.
    """
    path = Path(model).expanduser()
    folder = path if path.is_absolute() else root / path
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise UserError(
            f"model folder {folder} holds no config.json: point `model` at a whole Hugging Face checkpoint"
        )
    means_folder = path.is_absolute() or model.startswith((".", "~")) or (root / path.parts[0]).is_dir()
    if means_folder or not HUB_ID.fullmatch(model):
        raise UserError(
            f"model folder {folder} does not exist: correct `model` in the profile, or put the checkpoint there"
        )
    return None


def named_folder(model: str, root: Path) -> Path | None:
    """Return the folder that `model` names (relative to `root`), whatever is in it, or None if `model` is a hub id.

    Raises `UserError` for a path that does not exist.
    """
    folder = (root / Path(model).expanduser()).resolve()
    if folder.is_dir():
        return folder
    is_path = model.startswith(("/", ".", "~")) or (root / Path(model).parts[0]).is_dir()
    if is_path or not HUB_ID.fullmatch(model):
        raise UserError(
            f"model folder {folder} does not exist: correct its name, or put the checkpoint there"
        )
    return None


def special_tokens(model: str, root: Path) -> tuple[str, ...]:
    """Return the special tokens that the tokenizer file of a local model names; none without such a file."""
    folder = model_folder(model, root)
    path = folder / "tokenizer.json" if folder is not None else None
    if path is None or not path.is_file():
        return ()
    try:
        added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens") or []
        return tuple(
            str(token["content"]) for token in added if token["special"] and token["content"].strip()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a tokenizer file: copy the complete checkpoint there") from error
