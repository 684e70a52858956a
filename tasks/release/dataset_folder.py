"""The release folder of a dataset: what is uploaded, complete and with all papers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import yaml

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.release.changelog import CHANGELOG, changelog, difference
from tasks.release.configs import configs_of
from tasks.release.contract import Built
from tasks.release.croissant import croissant
from tasks.release.licences import licence_text
from tasks.release.release_card import release_card
from tasks.release.tables import write_tables
from tasks.storage.cards import CARDS
from tasks.storage.checksums import MANIFEST, checksum
from tasks.storage.disk import whole_folder
from tasks.storage.manifest import Manifest

_VERSION: Final = re.compile(r"\d{1,6}\.\d{1,6}\.\d{1,6}")
HUB: Final = "https://huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How a release is called: its version, and its repository on the hub (empty if there is none yet)."""

    version: str
    repo: str = ""

    def __post_init__(self) -> None:
        if not _VERSION.fullmatch(self.version):
            raise UserError(f"the version {self.version!r} is not three numbers: write e.g. 1.0.0")
        if self.repo and not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", self.repo):
            raise UserError(f"the repository {self.repo!r} is not owner/name: write e.g. my-group/sure-math")


def write_dataset_release(place: Path, built: Built, naming: Naming, previous: Path | None) -> list[str]:
    """Write the release folder of a dataset that satisfies the contract, replacing an existing one as a whole; return the
    changes since `previous`, in words. The same dataset gives the same bytes."""
    manifest = built.manifest
    with whole_folder(place, replace=True) as folder:
        configs = configs_of(write_tables(folder, built.folder, manifest))
        found = difference(folder, previous)
        date = datetime.fromtimestamp((built.folder / MANIFEST).stat().st_mtime, UTC).date().isoformat()
        url = f"{HUB}/datasets/{naming.repo}" if naming.repo else f"{HUB}/datasets"
        sources = manifest.contents.sources if manifest.contents else ()
        papers = {
            "README.md": release_card(folder, manifest, configs, version=naming.version, repo=naming.repo),
            "croissant.json": croissant(
                folder, manifest, configs, column_meanings(), version=naming.version, date=date, url=url
            ),
            "LICENSE": licence_text(
                manifest.name, manifest.licence, [(row.source, row.licence) for row in sources]
            ),
            "CITATION.cff": citation(manifest.name, manifest.licence, naming, "dataset"),
            CHANGELOG: changelog(naming.version, found, previous),
            MANIFEST: _with_files(manifest, folder).to_json(),
        }
        for name, text in papers.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return found.lines if previous is not None else ["first version"]


def column_meanings() -> dict[str, str]:
    """Return the meaning of every column of a release."""
    ours = yaml.safe_load((CARDS / "columns.yaml").read_text(encoding="utf-8"))
    added = yaml.safe_load((CARDS / "release_columns.yaml").read_text(encoding="utf-8"))
    return {**added, **ours["responses"], **ours["examples"]}


def citation(name: str, licence: str, naming: Naming, kind: str) -> str:
    """Return CITATION.cff of a release, with the authors of this project."""
    ours = yaml.safe_load((PROJECT_ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    record = {
        "cff-version": ours["cff-version"],
        "message": f"If you use this {kind}, please cite it as below.",
        "type": "dataset" if kind == "dataset" else "software",
        "title": name,
        "authors": ours["authors"],
        "version": naming.version,
        **({"url": f"{HUB}/{'datasets/' if kind == 'dataset' else ''}{naming.repo}"} if naming.repo else {}),
        "keywords": ours["keywords"],
    }
    return yaml.safe_dump(record | {"license": licence.upper()}, sort_keys=False, allow_unicode=True)


def _with_files(manifest: Manifest, folder: Path) -> Manifest:
    files = sorted(path for path in folder.rglob("*.parquet"))
    return replace(manifest, files={path.relative_to(folder).as_posix(): checksum(path) for path in files})
