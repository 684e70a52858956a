"""Stage rules: reject candidates whose text breaks a rule, with the rule as the reason."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from tasks.runtime.ahead import ahead, cpu_mapper
from tasks.runtime.chunks import shard_sizes
from tasks.runtime.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.runtime.pending import Pending
from tasks.runtime.shard_work import RulesWork, reject_by_rules
from tasks.storage.artifacts import Artifact

VERSION = 3


def apply_rules(run: Run, rounds: Sequence[Artifact]) -> Artifact:
    """Keep the candidates of all rounds that pass every rule of `tasks.problems.rules`."""
    settings = run.config.rules
    stage = Stage(
        name="rules", version=VERSION, settings=settings.identity(), inputs=tuple(rounds), unit="candidate"
    )

    @cache
    def parts() -> list[tuple[Artifact, int, int]]:
        return [
            (artifact, index, size)
            for artifact in rounds
            for index, size in enumerate(shard_sizes(run.store, artifact))
        ]

    def item(index: int) -> RulesWork:
        artifact, shard, _ = parts()[index]
        return RulesWork(path=run.store.shard_path(artifact, shard, "problems"), settings=settings)

    def content(index: int) -> str:
        artifact, shard, _ = parts()[index]
        return run.store.table_digest(artifact, shard, "problems")

    pending = Pending(run.store, stage, content)
    with Lazy(lambda: cpu_mapper(run, lambda: sum(size for _, _, size in parts()))) as mapper:
        tables = ahead(mapper, reject_by_rules, item, lambda: len(parts()), pending)

        def work(index: int, _on_progress: object) -> Shard:
            return Shard(incoming=parts()[index][2], tables=tables(index))

        return run_shards(run, stage, lambda: [size for _, _, size in parts()], work, pending)
