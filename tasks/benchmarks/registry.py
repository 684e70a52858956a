"""Registry of the benchmarks: every module in this folder that defines `BENCHMARK` is one."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module

from tasks import benchmarks
from tasks.benchmarks.base import Benchmark
from tasks.errors import UserError


@cache
def all_benchmarks() -> Mapping[str, Benchmark]:
    """Return {name: benchmark}, sorted by name."""
    found: dict[str, Benchmark] = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        offer = getattr(import_module(f"{benchmarks.__name__}.{module.name}"), "BENCHMARK", None)
        if isinstance(offer, Benchmark):
            if offer.name != module.name:
                raise TypeError(f"tasks/benchmarks/{module.name}.py defines benchmark {offer.name!r}")
            found[offer.name] = offer
    return dict(sorted(found.items()))


def find(name: str) -> Benchmark:
    """Return the benchmark with this name. Raises `UserError`, listing the known ones, if there is none."""
    if name not in all_benchmarks():
        raise UserError(
            f"unknown benchmark {name!r}: choose of {', '.join(all_benchmarks())} (files in tasks/benchmarks/)"
        )
    return all_benchmarks()[name]
