"""The owner of an output folder: the kind of run that made it. Another kind of run does not write into it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.errors import UserError
from tasks.storage.disk import atomic_write

OWNER = "owner.json"
RUN_LOCK = "run.lock"
"""The lock of an output folder: one run at a time writes into it."""
_BEFORE_OWNER = frozenset(
    {RUN_LOCK, "annotation.lock"}
)  # written before the folder is claimed; the second until 0.1.0


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
    """Raise `UserError` if `root` belongs to another run, has files of unknown origin, or cannot be read.

    A folder without `owner.json` was made by a build before there was this file if it has a `config.json`; a build also accepts
    one without a dataset (the plan and logs are written first).
    """
    found = _owner(root, owner)
    if found == owner:
        return
    there = _names(root) - _BEFORE_OWNER
    old_build = found is None and ("config.json" in there or "dataset" not in there)
    if not there or (owner == BUILD and old_build):
        return
    made = f"was made by {found or BUILD}" if found or "config.json" in there else "has other files"
    raise UserError(f"{root} {made}, and {owner} would overwrite them: choose another output folder")


def claim(root: Path, owner: Owner) -> None:
    """Make `owner` the owner of `root`, and create the folder if needed. Raises `UserError` as `check_owner` does."""
    check_owner(root, owner)
    if _owner(root, owner) != owner:
        atomic_write(root / OWNER, json.dumps(asdict(owner)) + "\n")


def _names(root: Path) -> set[str]:
    try:
        return {path.name for path in root.iterdir()}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UserError(
            f"{root} cannot be read ({error.strerror}): make it accessible or choose another output folder"
        ) from error


def _owner(root: Path, owner: Owner) -> Owner | None:
    """Return who made the folder, None if that was not recorded. Raises `UserError` if the record is damaged."""
    path = root / OWNER
    try:
        found = json.loads(path.read_bytes())
        return Owner(kind=str(found["kind"]), name=str(found["name"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} is damaged: if {owner} made this folder, write {json.dumps(asdict(owner))} into it, else choose another"
            " output folder"
        ) from error
