"""The identity of a stage's output. This module does not import Prefect, so that checks before a run are quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.config import Config
from tasks.identity import canonical_json, fingerprint
from tasks.seeds.registry import source_digest
from tasks.storage.artifacts import Artifact

AGGREGATE_VERSION = 5
BENCHMARKS_VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The identity of a stage's output. Raise `version` when a change of the code changes the output.

    `data`: settings and digests of external data that decide which rows enter, but not how a row is processed.
    `shardwise`: shard i depends on shard i of the input only, so it can be made before the input is finished.
    `cut`: rows per shard, for a stage that cuts its input into new shards.
    """

    name: str
    version: int
    settings: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Artifact, ...] = ()
    prompts: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    primary: str = "problems"
    unit: str = "problem"
    shardwise: bool = False
    cut: int | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of the code version, settings, prompts, models, data, inputs and cut: identifies the artifact."""
        data = (canonical_json(self.data),) if self.data else ()
        cut = () if self.cut is None else (f"shards of {self.cut}",)
        return self._hash((*(artifact.fingerprint for artifact in self.inputs), *data, *cut))

    @property
    def recipe(self) -> str:
        """The fingerprint without data, inputs and cut: identifies how a row is processed.

        The seeds of requests depend on it, so that one changed input row changes neither the requests nor the shards of
        the others.
        """
        return self._hash(())

    def _hash(self, inputs: tuple[str, ...]) -> str:
        return fingerprint(
            stage=self.name.split("-")[0], version=self.version, settings=self.settings,
            prompts=self.prompts, models=self.models, inputs=inputs,
        )  # fmt: skip


def aggregate_stage(config: Config) -> Stage:
    """Return what identifies the stage's output. Raises `UserError` if a source's data cannot be identified."""
    settings = config.aggregate
    digests = {source.name: source_digest(source) for source in settings.sources}
    return Stage(
        name="aggregate", version=AGGREGATE_VERSION, unit="problem",
        settings={},
        data={
            "aggregate": settings.identity(), "sources": digests, "shard_rows": config.run.shard_rows,
            "not_evaluated": sorted(config.decontam.not_evaluated),
        },
    )  # fmt: skip


def benchmarks_stage(config: Config) -> Stage:
    """Return what identifies the stage's output. Raises `UserError` if a source's data cannot be identified."""
    sources = config.decontam.benchmarks
    return Stage(
        name="benchmarks", version=BENCHMARKS_VERSION, unit="benchmark problem",
        settings={
            "benchmarks": [source.identity() for source in sources],
            "sources": {source.name: source_digest(source) for source in sources},
            "shard_rows": config.run.shard_rows,
        },
    )  # fmt: skip
