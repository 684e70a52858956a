"""Registry of the kinds of sources: every module in this folder that defines `SOURCE` is one."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from tasks import seeds
from tasks.config import Config, Source, explain
from tasks.errors import UserError
from tasks.seeds.kinds import KindSettings, Loaded, SourceKind


@cache
def kinds() -> Mapping[str, tuple[str, SourceKind]]:
    """Return {kind: (name of its module, its `SOURCE`)}, sorted by kind."""
    found: dict[str, tuple[str, SourceKind]] = {}
    for module in pkgutil.iter_modules(seeds.__path__):
        offer = getattr(import_module(f"{seeds.__name__}.{module.name}"), "SOURCE", None)
        if isinstance(offer, SourceKind):
            if offer.kind in found:
                raise TypeError(
                    f"tasks/seeds/{module.name}.py and {found[offer.kind][0]}.py both define kind {offer.kind!r}"
                )
            found[offer.kind] = module.name, offer
    return dict(sorted(found.items()))


def resolve(config: Config) -> Config:
    """Return the settings with every source validated by its kind. Raises `UserError` with the key and the remedy."""
    origin = f"configs/{config.profile}.yaml or the overrides"

    def typed(sources: Sequence[Source], *inside: str) -> tuple[Source, ...]:
        return tuple(_typed(source, (*inside, index), origin) for index, source in enumerate(sources))

    sources = typed(config.aggregate.sources, "aggregate", "sources")
    benchmarks = typed(config.decontam.benchmarks, "decontam", "benchmarks")
    changed: dict[str, Any] = {
        "aggregate": config.aggregate.model_copy(update={"sources": sources}),
        "decontam": config.decontam.model_copy(update={"benchmarks": benchmarks}),
    }
    if config.distill is not None and config.distill.held_out != "test":
        held_out = typed(config.distill.held_out, "distill", "held_out")
        changed["distill"] = config.distill.model_copy(update={"held_out": held_out})
    return config.model_copy(update=changed)


def load(source: Source) -> Loaded:
    """Return the rows of one source in a fixed order. Raises `UserError` with source, location and remedy."""
    return _kind(source).load(source)


def check(source: Source) -> None:
    """Detect an unreachable, misnamed or damaged source before the run depends on it."""
    if (check := _kind(source).check) is not None:
        check(source)


def source_digest(source: Source) -> str:
    """Return the identity of the source's content: a file's hash, a data set's commit, or a generator's version."""
    return _kind(source).digest(source)


def _typed(source: Source, inside: tuple[str | int, ...], origin: str) -> Source:
    if isinstance(source, KindSettings):
        return source
    if source.kind not in kinds():
        where = ".".join(map(str, inside))
        raise UserError(
            f"{origin}: {where}.kind: unknown kind {source.kind!r}: choose one of"
            f" {', '.join(kinds())} (files in tasks/seeds/)"
        )
    module, kind = kinds()[source.kind]
    try:
        return kind.settings.model_validate(source.model_dump(exclude_unset=True))
    except ValidationError as error:
        raise UserError(explain(error, origin, f"tasks/seeds/{module}.py", inside)) from error


def _kind(source: Source) -> SourceKind:
    if not isinstance(source, KindSettings):
        raise TypeError(
            f"source {source.name or source.kind!r} is not resolved: call tasks.seeds.registry.resolve first"
        )
    return kinds()[source.kind][1]
