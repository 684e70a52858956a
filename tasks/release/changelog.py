"""What differs between two released versions of a dataset: problems added, gone, and with another weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

import pyarrow.parquet as pq

from tasks.storage.manifest import DATA, FLAGGED, RESPONSES
from tasks.text import counted

CHANGELOG: Final = "CHANGELOG.md"
_TITLE: Final = "# Changelog\n"
_SAME: Final = 1e-9  # weights that differ by less are the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The ids of problems that are new, gone, or have another weight (with the new weight minus the old one)."""

    problems: int
    responses: int
    added: tuple[str, ...]
    gone: tuple[str, ...]
    moved: dict[str, float]

    @property
    def lines(self) -> list[str]:
        """The difference in words, one line each."""
        found = [f"{counted(len(self.added), 'problem')} added", f"{counted(len(self.gone), 'problem')} gone"]
        if not self.moved:
            return [*found, "no weight changed"]
        most = max(self.moved, key=lambda name: (abs(self.moved[name]), name))
        return [
            *found,
            f"{counted(len(self.moved), 'weight')} changed: by {fmean(self.moved.values()):+.4f} in the mean, at most by"
            f" {self.moved[most]:+.4f} (`{most}`)",
        ]


def difference(folder: Path, previous: Path | None) -> Difference:
    """Compare two release folders; without a previous one, all problems are new."""
    new, old = _weights(folder), {} if previous is None else _weights(previous)
    return Difference(
        problems=len(new),
        responses=sum(pq.read_metadata(path).num_rows for path in folder.glob(f"{RESPONSES}/*/*.parquet")),
        added=tuple(sorted(new.keys() - old.keys())),
        gone=tuple(sorted(old.keys() - new.keys())),
        moved={
            name: new[name] - old[name]
            for name in sorted(new.keys() & old.keys())
            if abs(new[name] - old[name]) > _SAME
        },
    )


def changelog(version: str, found: Difference, previous: Path | None) -> str:
    """Return CHANGELOG.md: an entry for this version, then those of the previous one."""
    total = f"{counted(found.problems, 'problem')}, {counted(found.responses, 'response')}"
    lines = ["first version"] if previous is None else found.lines
    earlier = ""
    if previous is not None and (previous / CHANGELOG).is_file():
        earlier = "\n" + (previous / CHANGELOG).read_text(encoding="utf-8").removeprefix(_TITLE).lstrip("\n")
    return f"{_TITLE}\n## {version}\n\n" + "".join(f"- {line}\n" for line in [total, *lines]) + earlier


def _weights(folder: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in (DATA, FLAGGED):
        for path in sorted(folder.glob(f"{name}/*/*.parquet")):
            table = pq.read_table(path, columns=["id", "weight"])
            found |= dict(zip(table["id"].to_pylist(), table["weight"].to_pylist(), strict=True))
    return found
