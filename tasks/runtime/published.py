"""Artifacts of the Prefect UI about a finished run: the paths of its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefect.artifacts import create_markdown_artifact


def publish_files(key: str, description: str, files: Mapping[str, Path]) -> None:
    """Publish the paths of a run's results, each with a link that can be copied."""
    lines = [f"- {name}: `{path}` ([link]({path.resolve().as_uri()}))\n" for name, path in files.items()]
    create_markdown_artifact("".join(lines), key=key, description=description)
