"""The owner of an output folder: the kind of run that made it. Another kind of run does not write into it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.errors import UserError
from tasks.storage.disk import atomic_write

OWNER = "owner.json"
_BEFORE_OWNER = frozenset({"annotation.lock"})  # written before the folder is claimed


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A kind of run and, for `annotate`, the name of the annotated file."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"make {self.kind}{f' of {self.name}' if self.name else ''}"


BUILD = Owner(kind="build")


def annotation_of(source: str) -> Owner:
    """Return the owner of an annotation of the file with this name."""
    return Owner(kind="annotate", name=source)


def check_owner(root: Path, owner: Owner) -> None:
    """Raise `UserError` if `root` belongs to another run, or has files of unknown origin.

    A folder without `owner.json` was made by a build before there was this file if it has a `config.json`; a build also accepts
    one without a dataset (the plan and logs are written first).
    """
    found = _owner(root)
    if found == owner:
        return
    there = {path.name for path in root.iterdir()} - _BEFORE_OWNER if root.is_dir() else set()
    old_build = found is None and ("config.json" in there or "dataset" not in there)
    if not there or (owner == BUILD and old_build):
        return
    made = f"was made by {found or BUILD}" if found or "config.json" in there else "has other files"
    raise UserError(f"{root} {made}, and {owner} would overwrite them: choose another output folder")


def claim(root: Path, owner: Owner) -> None:
    """Make `owner` the owner of `root`, and create the folder if needed. Raises `UserError` as `check_owner` does."""
    check_owner(root, owner)
    if _owner(root) != owner:
        atomic_write(root / OWNER, json.dumps(asdict(owner)) + "\n")


def _owner(root: Path) -> Owner | None:
    try:
        found = json.loads((root / OWNER).read_text(encoding="utf-8"))
        return Owner(kind=str(found["kind"]), name=str(found["name"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None
