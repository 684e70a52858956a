"""The card of a released dataset: README.md with the metadata of the hub, for all configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tasks.release.configs import Config, patterns
from tasks.storage import cards
from tasks.storage.dataset_card import card_values, one_line, size_category
from tasks.storage.manifest import Manifest


def release_card(
    place: Path, manifest: Manifest, configs: Sequence[Config], *, version: str, repo: str
) -> str:
    """Render README.md of a release folder whose Parquet files are written. `repo` may be empty."""
    added = yaml.safe_load((cards.CARDS / "release_columns.yaml").read_text(encoding="utf-8"))
    metadata = _metadata(place, manifest, configs, version)
    return cards.render_card(
        "release.md.j2",
        **card_values(manifest, yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)),
        configs=configs, version=version, repo=repo, added_columns=added,
    )  # fmt: skip


def _metadata(place: Path, manifest: Manifest, configs: Sequence[Config], version: str) -> dict[str, Any]:
    if manifest.contents is None:
        raise ValueError("the manifest has no contents")
    licences = sorted({manifest.licence, *(row.licence for row in manifest.contents.sources)})
    rows = sum(part.rows for part in configs[0].parts)
    return {
        "license": licences[0] if len(licences) == 1 else licences,
        "language": ["en"],
        "multilinguality": ["monolingual"],
        "pretty_name": one_line(manifest.name),
        "task_categories": ["text-generation", "question-answering"],
        "size_categories": [size_category(rows)],
        "annotations_creators": ["machine-generated"],
        "language_creators": _writers(manifest),
        "source_datasets": source_datasets(manifest.settings),
        "tags": ["mathematics", "reasoning", "semantic-entropy", "uncertainty", "distillation", "synthetic"],
        "configs": [_files(config, manifest, version) for config in configs],
        "dataset_info": [_info(place, config) for config in configs],
    }


def _writers(manifest: Manifest) -> list[str]:
    """Return who wrote the problems: models (evolved), programs and models (generated), or people whose texts were found."""
    roles = {row.role for row in manifest.contents.sources} if manifest.contents else set()
    kinds = {one["kind"] for one in manifest.settings.get("aggregate", {}).get("sources", ())}
    found = roles - {"evolved"} and not (kinds == {"pocket"} and "given" not in roles)
    written = "evolved" in roles or kinds == {"pocket"}
    return ["machine-generated"] * written + ["found"] * bool(found)


def source_datasets(settings: Mapping[str, Any]) -> list[str]:
    """Return the datasets that a build's problems come from, as the hub writes them: `original`, or `extended|<dataset>`."""
    found = []
    for one in settings.get("aggregate", {}).get("sources", ()):
        ids = [part["hub_id"] for part in one.get("parts", ()) if "hub_id" in part]
        other = [] if one["kind"] in ("pocket", "file") else [f"other-{one['name']}"]
        found += [f"extended|{name}" for name in ids or other] or ["original"]
    return list(dict.fromkeys(found)) or ["original"]


def _files(config: Config, manifest: Manifest, version: str) -> dict[str, Any]:
    # `datasets` caches by the content of the card, so the card has to change with the content of the files.
    entry: dict[str, Any] = {
        "config_name": config.name,
        "description": f"{config.meaning} (version {version}, {manifest.fingerprint})",
        "data_files": [{"split": split, "path": patterns(parts)} for split, parts in config.splits.items()],
    }
    return entry | ({"default": True} if config.name == "default" else {})


def _info(place: Path, config: Config) -> dict[str, Any]:
    paths = {
        split: [path for pattern in patterns(parts) for path in sorted(place.glob(pattern))]
        for split, parts in config.splits.items()
    }
    first = next(iter(paths.values()))[0]
    splits = [
        {
            "name": split,
            "num_bytes": sum(part.bytes for part in parts),
            "num_examples": sum(part.rows for part in parts),
        }
        for split, parts in config.splits.items()
    ]
    return {
        "config_name": config.name,
        "features": [_feature(column) for column in pq.read_schema(first)],
        "splits": splits,
        "download_size": sum(path.stat().st_size for listed in paths.values() for path in listed),
        "dataset_size": sum(part.bytes for part in config.parts),
    }


def _feature(column: pa.Field) -> dict[str, Any]:
    """Return a column as `datasets` writes its features on a card."""
    if not isinstance(column.type, pa.ListType):
        return {"name": column.name, "dtype": str(column.type).replace("double", "float64")}
    kind = column.type.value_type
    if isinstance(kind, pa.StructType):
        return {"name": column.name, "list": [_feature(inner) for inner in kind]}
    return {"name": column.name, "list": str(kind).replace("double", "float64")}
