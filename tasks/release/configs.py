"""The configs of a released dataset: which parts each has, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.release.tables import Part
from tasks.storage.manifest import DATA, FLAGGED, RESPONSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A config of a released dataset; every one has rows."""

    name: str
    meaning: str
    parts: tuple[Part, ...]

    @property
    def splits(self) -> dict[str, tuple[Part, ...]]:
        """The parts of each split."""
        names = dict.fromkeys(part.split for part in self.parts)
        return {name: tuple(part for part in self.parts if part.split == name) for name in names}


def configs_of(parts: Sequence[Part]) -> list[Config]:
    """Return the configs of a release. If the licences of its rows differ, there are also configs for each licence."""
    licences = sorted({part.licence for part in parts})
    found = [
        _config("default", "all problems", parts, (DATA, FLAGGED)),
        _config("decontaminated", "problems without a benchmark flag, see below", parts, (DATA,)),
        _config(
            "responses", "the teacher's responses, with the problem's text and messages", parts, (RESPONSES,)
        ),
    ]
    if len(licences) > 1:
        for licence in licences:
            own = [part for part in parts if part.licence == licence]
            found += [
                _config(licence, f"problems under {licence}", own, (DATA, FLAGGED)),
                _config(
                    f"responses-{licence}", f"responses to the problems under {licence}", own, (RESPONSES,)
                ),
            ]
    return [config for config in found if config.parts]


def _config(name: str, meaning: str, parts: Sequence[Part], folders: tuple[str, ...]) -> Config:
    return Config(name=name, meaning=meaning, parts=tuple(part for part in parts if part.folder in folders))


def patterns(parts: Sequence[Part]) -> list[str]:
    """Return the patterns of the files of parts."""
    return [f"{part.folder}/{part.licence}/{part.split}-*.parquet" for part in parts]
