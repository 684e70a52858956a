"""Settings of a command: a JSON file, and values on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.errors import UserError


def given_entries(entries: Iterable[str]) -> dict[str, Any]:
    """Return the settings of `--set name=value ...`: a value is JSON, or else the text itself. Raises `UserError` for an entry
    without a value."""
    found = dict[str, Any]()
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals:
            raise UserError(f"--set {entry} has no value: write --set name=value")
        try:
            found[name.strip()] = json.loads(text)
        except ValueError:
            found[name.strip()] = text
    return found


def given_file(path: Path, of: str) -> dict[str, Any]:
    """Return the settings in a JSON file. Raises `UserError` unless it is an object. `of`: what they are settings of."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a JSON object of settings") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object: give the settings of {of}")
    return found
