"""Settings of a command: a JSON file, and values on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.errors import UserError


def given_value(text: str) -> Any:
    """Return the JSON value of `--set name=text`, or the text itself if it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def given_file(path: Path, of: str) -> dict[str, Any]:
    """Return the settings in a JSON file. Raises `UserError` unless it is an object. `of`: what they are settings of."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a JSON object of settings") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object: give the settings of {of}")
    return found
