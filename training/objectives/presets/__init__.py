"""One file per objective: each defines `OBJECTIVE`, and its file name is its name. Importing this package loads no torch."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from tasks.core.errors import UserError

if TYPE_CHECKING:
    from training.objectives.base import Objective


def preset_names() -> list[str]:
    """The names of all objectives, sorted."""
    return sorted(module.name for module in iter_modules(__path__))


def load_preset(name: str) -> Objective:
    """The objective of that name; `UserError` with the names that exist when there is none."""
    if name not in preset_names():
        raise UserError(f"there is no objective {name!r}: choose one of {', '.join(preset_names())}")
    return import_module(f"{__name__}.{name}").OBJECTIVE
