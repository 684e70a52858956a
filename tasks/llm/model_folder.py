"""The folder of a local model."""

from __future__ import annotations

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
