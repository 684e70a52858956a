"""Names of flow runs: profile, what is done, and the overrides. Does not import Prefect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_CHARS = 80
"""The name is in front of every log line of the run."""
MAX_VALUE_CHARS = 40


def run_name(what: str, parameters: Mapping[str, Any]) -> str:
    """Return the name of a run of the flow that does `what`: 'pocket build, select.target=50'.

    `parameters` are those of the flow. A name of more than `MAX_CHARS` characters ends with '...'.
    """
    what = "plan" if what == "build" and parameters.get("dry_run") else what
    parts = [f"{parameters.get('experiment') or parameters.get('profile', 'pocket')} {what}"]
    parts += [Path(str(parameters[key])).name for key in ("problems", "dataset") if parameters.get(key)]
    parts += [f"{key}={_short(value)}" for key, value in _dotted(parameters.get("overrides") or {})]
    name = ", ".join(parts)
    return name if len(name) <= MAX_CHARS else f"{name[: MAX_CHARS - 3]}..."


def _dotted(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the overrides with dotted keys."""
    for key, value in overrides.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 3]}..."
