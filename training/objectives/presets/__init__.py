"""Presets: one file per objective, which defines `OBJECTIVE` under its file name. Importing this package does not load torch."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from tasks.errors import UserError

if TYPE_CHECKING:
    from training.objectives.base import Objective


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(module.name for module in iter_modules(__path__))


def load_preset(name: str) -> Objective:
    """Return the objective of that name. Raises `UserError`, listing all names, if it does not exist."""
    if name not in preset_names():
        raise UserError(f"unknown objective {name!r}: choose one of {', '.join(preset_names())}")
    return import_module(f"{__name__}.{name}").OBJECTIVE
