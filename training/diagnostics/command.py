"""The command line of a diagnostic: a preset, a JSON file of settings, and single settings, each over the one before."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tasks.config import explain
from tasks.errors import UserError
from tasks.given_settings import given_entries, given_file
from tasks.text import visible
from training.diagnostics.settings import PRESETS, DiagnosticSettings

__all__ = ["Log", "run_command"]

Log = Callable[[str], None]
Kind = TypeVar("Kind", bound=DiagnosticSettings)
_LISTS = ("benchmarks", "students")


def run_command(
    name: str,
    description: str,
    kind: type[Kind],
    run: Callable[[Kind, Log], Any],
    argv: Sequence[str] | None = None,
) -> int:
    """Read the settings, run a diagnostic, and return the exit code: 0, or 2 for a problem that the user can fix, which is one
    sentence on standard error."""
    parser = argparse.ArgumentParser(prog=f"python -m training.diagnostics.{name}", description=description)
    parser.add_argument(
        "settings", nargs="?", type=Path, metavar="SETTINGS.json", help="JSON object of settings"
    )
    parser.add_argument("--preset", choices=PRESETS[name], default="paper", help="values that are not given")
    for option in ("model", "teacher", "student", "dataset", "out", *_LISTS):
        if option in kind.model_fields:
            parser.add_argument(f"--{option}", help="by commas" if option in _LISTS else None)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another setting")

    def log(text: str) -> None:
        sys.stdout.write(f"{name}: {visible(text)}\n")
        sys.stdout.flush()

    arguments = parser.parse_args(argv)
    try:
        run(_settings(name, kind, arguments), log)
    except UserError as error:
        sys.stderr.write(f"{visible(str(error))}\n")
        return 2
    return 0


def _settings(name: str, kind: type[Kind], arguments: argparse.Namespace) -> Kind:
    """Return the settings of a command line. Raises `UserError` that names the wrong one."""
    data = dict(PRESETS[name][arguments.preset])
    data |= {} if arguments.settings is None else given_file(arguments.settings, "a diagnostic")
    for option, value in vars(arguments).items():
        if option in kind.model_fields and value is not None:
            data[option] = _parts(value) if option in _LISTS else value
    data |= given_entries(arguments.set)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise UserError(explain(error, name, "training/diagnostics/settings.py")) from error


def _parts(value: str) -> list[str]:
    return [one.strip() for one in value.split(",") if one.strip()]
