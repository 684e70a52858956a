"""Algorithms: one file per method, which defines `ALGORITHM` under its file name. Importing them does not load torch."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tasks.errors import UserError
from training.algorithms.base import Algorithm

__all__ = ["algorithm_names", "load_algorithm"]

PARTS = frozenset({"advantages", "base", "losses", "preferences", "token_weights"})
"""The modules of this package that are not algorithms."""


def algorithm_names() -> list[str]:
    """Return the names of all algorithms of this package, sorted."""
    return sorted(module.name for module in iter_modules(__path__) if module.name not in PARTS)


def load_algorithm(name: str) -> Algorithm:
    """Return the algorithm of that name: a file of this package or, if the name has a dot, an importable module. Raises
    `UserError` if it does not exist or defines no `ALGORITHM`."""
    if "." not in name and name not in algorithm_names():
        raise UserError(f"unknown algorithm {name!r}: choose one of {', '.join(algorithm_names())}")
    try:
        module = import_module(name if "." in name else f"{__name__}.{name}")
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
    algorithm = getattr(module, "ALGORITHM", None)
    if not isinstance(algorithm, Algorithm):
        raise UserError(f"{module.__file__} defines no ALGORITHM: assign an Algorithm to that name")
    return algorithm
