"""Stage deduplicate: reject verified near-duplicates of seeds, of curated problems and of other candidates."""

from __future__ import annotations

from functools import cache

from tasks.rows import Edge
from tasks.runtime.ahead import ahead, cpu_mapper
from tasks.runtime.chunks import shard_sizes
from tasks.runtime.deduplication import content_of, decide, dedup_work, edges_of, notes_of
from tasks.runtime.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.runtime.pending import Pending
from tasks.runtime.shard_work import DedupWork, reject_near_duplicates
from tasks.storage.artifacts import Artifact

VERSION = 5


def deduplicate(run: Run, sources: Artifact, candidates: Artifact) -> Artifact:
    """Keep the candidates that are below the threshold against every seed, curated problem and kept candidate.

    Shard i of the result contains the kept candidates of shard i of the input.
    """
    settings = run.config.dedup
    stage = Stage(
        name="deduplicate", version=VERSION, unit="candidate", inputs=(sources, candidates),
        settings={"dedup": settings.identity()},
    )  # fmt: skip
    sizes = cache(lambda: shard_sizes(run.store, candidates))

    with Lazy(lambda: cpu_mapper(run, lambda: sum(sizes()))) as mapper:
        decision = cache(lambda: decide(run.store, sources, candidates, settings, mapper.get()))

        def item(index: int) -> DedupWork:
            return dedup_work(decision(), run.store, candidates, index, sizes())

        def content(index: int) -> str:
            return content_of(decision(), run.store, candidates, index, sizes())

        pending = Pending(run.store, stage, content)
        tables = ahead(mapper, reject_near_duplicates, item, lambda: len(sizes()), pending)

        def work(index: int, _on_progress: object) -> Shard:
            edges = edges_of(decision(), index, sizes())
            return Shard(
                incoming=sizes()[index],
                tables={**tables(index), "edges": (Edge, edges)},
                notes=notes_of(decision(), index),
            )

        return run_shards(run, stage, sizes, work, pending)
