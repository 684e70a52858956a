"""Problems of a run's problem sources before it starts; sources of the hub are looked up, local ones are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks.config import Config, Source
from tasks.errors import attempt
from tasks.problems.evolution_plan import with_target
from tasks.rows import Problem, Role
from tasks.runtime.stage import Stage, aggregate_stage, benchmarks_stage
from tasks.seeds.kinds import KindSettings
from tasks.seeds.registry import check, load
from tasks.storage.artifacts import Store
from tasks.storage.hub import COMMIT
from tasks.storage.hub_lookup import HubItem


def is_remote(source: Source) -> bool:
    """Whether the source is read from the hub."""
    return isinstance(source, KindSettings) and source.is_remote


def is_pinned(source: Any) -> bool:
    """Whether the settings pin every data set of a public source to a commit."""
    return all(COMMIT.fullmatch(source.revisions.get(part.hub_id) or "") for part in source.parts)


def unread_sources(config: Config, root: Path) -> tuple[Source, ...]:
    """Return the sources and benchmarks whose rows are not yet in the output folder `root`."""
    found = ()
    for sources, stage in (
        (config.aggregate.sources, aggregate_stage),
        (config.decontam.benchmarks, benchmarks_stage),
    ):
        if not _is_read(sources, lambda one=stage: one(config), root):
            found += tuple(sources)
    return found


def _is_read(sources: Sequence[Source], stage: Callable[[], Stage], root: Path) -> bool:
    """Whether the stage that reads the sources is finished; not asked if that needs the hub."""
    if any(is_remote(source) and not is_pinned(source) for source in sources):
        return False
    ignored: list[str] = []  # a missing file is reported by `source_problems`
    found = attempt(ignored, stage)
    return found is not None and Store(root).find(found.name, found.fingerprint) is not None


def source_problems(config: Config, sources: Sequence[Source]) -> list[str]:
    """Return the problems of the local sources among `sources`, and of the number of problems in all of them.

    The number is not known if one of them is read from the hub, or cannot be read.
    """
    problems: list[str] = []
    for source in sources:
        if not is_remote(source):
            attempt(problems, lambda one=source: check(one))
    every = config.aggregate.sources
    if not problems and set(map(id, every)) <= set(map(id, sources)):
        if not any(is_remote(source) for source in every if source.role == "curated"):
            problems += curated_problems(config)
        if config.evolve.target is not None and not any(map(is_remote, every)):
            attempt(problems, lambda: with_target(_seeds(config), config.evolve))
    return problems


def curated_problems(config: Config) -> list[str]:
    """Return a problem if the curated sources have fewer problems than are to be held out."""
    curated = sum(load(source).problems for source in config.aggregate.sources if source.role == "curated")
    if curated >= config.aggregate.test_problems:
        return []
    return [
        f"aggregate.test_problems is {config.aggregate.test_problems}, but the curated sources have only {curated} "
        "problems: add curated problems or lower aggregate.test_problems"
    ]


def _seeds(config: Config) -> Counter[Any]:
    rows = (row for source in config.aggregate.sources for row in load(source).outcomes)
    return Counter(row.tier for row in rows if isinstance(row, Problem) and row.role is Role.SEED)


def hub_sources(sources: Sequence[Source]) -> list[HubItem]:
    """Return the data sets that have to be read from the hub."""
    remote: list[Any] = [source for source in sources if is_remote(source)]
    return [
        HubItem(
            setting=f"source {source.name}", kind="dataset", hub_id=part.hub_id,
            revision=source.revisions.get(part.hub_id),
        )
        for source in remote
        for part in source.parts
    ]  # fmt: skip
