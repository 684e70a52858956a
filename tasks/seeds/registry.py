"""Where the settings of a source meet the file that loads it: every module here with a `SOURCE` is a kind."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from tasks import seeds
from tasks.core.config import Config, Source, explain
from tasks.core.errors import UserError
from tasks.seeds.kinds import KindSettings, Loaded, SourceKind


@cache
def kinds() -> Mapping[str, tuple[str, SourceKind]]:
    """kind -> (name of its module, what it offers), sorted by kind."""
    found: dict[str, tuple[str, SourceKind]] = {}
    for module in pkgutil.iter_modules(seeds.__path__):
        offer = getattr(import_module(f"{seeds.__name__}.{module.name}"), "SOURCE", None)
        if isinstance(offer, SourceKind):
            if offer.kind in found:
                raise TypeError(
                    f"tasks/seeds/{module.name}.py and {found[offer.kind][0]}.py are both {offer.kind!r}"
                )
            found[offer.kind] = module.name, offer
    return dict(sorted(found.items()))


def resolve(config: Config) -> Config:
    """The settings with every source checked by its own kind. Raises `UserError` naming the key and the remedy."""
    origin = f"configs/{config.profile}.yaml or the overrides"

    def typed(sources: Sequence[Source], *inside: str) -> tuple[Source, ...]:
        return tuple(_typed(source, (*inside, index), origin) for index, source in enumerate(sources))

    sources = typed(config.aggregate.sources, "aggregate", "sources")
    benchmarks = typed(config.decontam.benchmarks, "decontam", "benchmarks")
    changed: dict[str, Any] = {
        "aggregate": config.aggregate.model_copy(update={"sources": sources}),
        "decontam": config.decontam.model_copy(update={"benchmarks": benchmarks}),
    }
    if config.distill is not None:
        held_out = typed(config.distill.held_out, "distill", "held_out")
        changed["distill"] = config.distill.model_copy(update={"held_out": held_out})
    return config.model_copy(update=changed)


def load(source: Source) -> Loaded:
    """The rows of one source, in a fixed order. Raises `UserError` naming source, place and remedy."""
    return _kind(source).load(source)


def check(source: Source) -> None:
    """Find what is wrong with a source before hours of work hang on it: unreachable, misnamed, damaged."""
    if (look := _kind(source).check) is not None:
        look(source)


def source_digest(source: Source) -> str:
    """Identity of what the source holds: a file's content hash, a data set's commit, a generator's version."""
    return _kind(source).digest(source)


def _typed(source: Source, inside: tuple[str | int, ...], origin: str) -> Source:
    if isinstance(source, KindSettings):
        return source
    if source.kind not in kinds():
        where = ".".join(map(str, inside))
        raise UserError(
            f"{origin}: {where}.kind: there is no source of kind {source.kind!r}: choose one of"
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
            f"source {source.name or source.kind!r} was not resolved: see tasks.seeds.registry.resolve"
        )
    return kinds()[source.kind][1]
