"""The dataset card: README.md of a dataset folder, rendered from the manifest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import yaml

from tasks.rows import Example, Response
from tasks.storage import cards
from tasks.storage.manifest import DATA, FLAGGED, RESPONSES, Contents, Manifest
from tasks.storage.tables import schema
from tasks.text import visible


def render_card(manifest: Manifest) -> str:
    """Render the dataset card (README.md) of a manifest with `contents`. The same manifest gives the same text; `timings` are
    not used."""
    if manifest.contents is None:
        raise ValueError("the manifest has no contents: compute them with describe() first")
    return cards.render_card(
        "dataset.md.j2",
        front_matter=cards.Markdown(_front_matter(manifest, manifest.contents)),
        manifest=manifest,
        contents=manifest.contents,
        teacher=manifest.teacher,
        settings=manifest.settings,
        checks=manifest.settings.get("decontam", {}),
        total=sum(row.problems for row in manifest.contents.splits),
        clean=sum(row.decontaminated for row in manifest.contents.splits),
        columns=_columns(),
    )


def _columns() -> dict[str, list[dict[str, str]]]:
    meanings = yaml.safe_load((cards.CARDS / "columns.yaml").read_text(encoding="utf-8"))
    return {
        table: [
            {"name": column.name, "type": _type_name(column.type), "meaning": meanings[table][column.name]}
            for column in schema(row_type)
        ]
        for table, row_type in (("examples", Example), ("responses", Response))
    }


def _type_name(kind: pa.DataType) -> str:
    return f"list of {kind.value_type}" if isinstance(kind, pa.ListType) else str(kind)


def _front_matter(manifest: Manifest, contents: Contents) -> str:
    """Return the YAML front matter of the card, which `load_dataset` and the Hugging Face hub read."""
    known = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", manifest.licence) is not None
    licence = (
        {"license": manifest.licence}
        if known
        else {"license": "other", "license_name": _one_line(manifest.licence)}
    )
    head = {
        **licence,
        "language": ["en"],
        "pretty_name": _one_line(manifest.name),
        "task_categories": ["text-generation"],
        "tags": ["mathematics", "semantic-entropy", "distillation", "synthetic"],
        "size_categories": [_size_category(sum(row.problems for row in contents.splits))],
        "configs": [
            # `datasets` caches by the content of the card, not by the folder's path or the files' content: without the
            # fingerprint, a rebuilt dataset would be loaded from the cache of an older one.
            {
                "config_name": config,
                "description": f"{config} of version {manifest.fingerprint}",
                "data_files": files,
            }
            | ({"default": True} if config == "default" else {})
            for config, files in _data_files(contents).items()
        ],
    }
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True)


def _one_line(text: str) -> str:
    return " ".join(visible(text).split())


def _data_files(contents: Contents) -> dict[str, list[dict[str, Any]]]:
    """Map each config to its splits. Splits without rows and configs without splits are omitted: they cannot be loaded."""
    folders: dict[str, dict[str, list[str]]] = {"default": {}, "decontaminated": {}, "responses": {}}
    for row in contents.splits:
        clean = [DATA] if row.decontaminated else []
        folders["decontaminated"][row.split] = clean
        folders["default"][row.split] = clean + ([FLAGGED] if row.decontaminated < row.problems else [])
        folders["responses"][row.split] = [RESPONSES]
    found = {
        config: [_split_files(split, used) for split, used in splits.items() if used]
        for config, splits in folders.items()
    }
    return {config: files for config, files in found.items() if files}


def _split_files(split: str, folders: Sequence[str]) -> dict[str, Any]:
    paths = [f"{folder}/{split}-*.parquet" for folder in folders]
    return {"split": split, "path": paths[0] if len(paths) == 1 else paths}


def _size_category(rows: int) -> str:
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in limits if rows < limit), "n>1M")
