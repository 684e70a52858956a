"""Algorithms: one file per method, which defines `ALGORITHM` under its file name. Importing them does not load torch.

A file may also define a dataclass `Options`, settings that no other method has, and `variant`, a function of such options that
returns the algorithm; `ALGORITHM` is that of the default options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tasks.errors import UserError
from training.algorithms.base import Algorithm

__all__ = ["algorithm_names", "load_algorithm", "options_of"]

PARTS = frozenset({"advantages", "base", "losses", "preferences", "rollout_weights", "token_weights"})
"""The modules of this package that are not algorithms."""


def algorithm_names() -> list[str]:
    """Return the names of all algorithms of this package, sorted."""
    return sorted(module.name for module in iter_modules(__path__) if module.name not in PARTS)


def load_algorithm(name: str, options: Mapping[str, Any] | None = None) -> Algorithm:
    """Return the algorithm of that name, a file of this package or, if the name has a dot, an importable module, with some of its
    options changed. Raises `UserError` if it does not exist, defines no `ALGORITHM`, or has no such options."""
    module = _module(name)
    algorithm = getattr(module, "ALGORITHM", None)
    if not isinstance(algorithm, Algorithm):
        raise UserError(f"{module.__file__} defines no ALGORITHM: assign an Algorithm to that name")
    return _variant(module, name, options) if options else algorithm


def options_of(name: str) -> tuple[Mapping[str, Any], str]:
    """Return the options of an algorithm by name, with their defaults, and what they mean; empty if it has none."""
    kind = getattr(_module(name), "Options", None)
    if kind is None:
        return {}, ""
    given = {one.name: None if one.default is MISSING else one.default for one in fields(kind)}
    return given, " ".join((kind.__doc__ or "").split())


def _variant(module: ModuleType, name: str, options: Mapping[str, Any]) -> Algorithm:
    """Return the algorithm of a module with some of its options changed."""
    known = options_of(name)[0]
    unknown = next((key for key in options if key not in known), None)
    if unknown is not None:
        choice = f"choose among {', '.join(known)}" if known else "remove it"
        raise UserError(f"algorithm.options.{unknown} is set, but {name} has no such option: {choice}")
    try:
        given = TypeAdapter(module.Options).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"algorithm.options.{key}: {first['msg']}") from error
    try:
        return module.variant(given)
    except UserError as error:
        raise UserError(f"algorithm.options of {name}: {error}") from error


def _module(name: str) -> ModuleType:
    """Return the module of an algorithm, imported."""
    if "." not in name and name not in algorithm_names():
        raise UserError(f"unknown algorithm {name!r}: choose one of {', '.join(algorithm_names())}")
    try:
        return import_module(name if "." in name else f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"the module of algorithm {name!r} cannot be imported ({error}): add its folder to PYTHONPATH"
        ) from error
    except UserError as error:
        raise UserError(f"the module of algorithm {name!r}: {error}") from error
    except Exception as error:  # a module is a program and may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"the module of algorithm {name!r} cannot be imported ({reason}): correct it"
        ) from error
