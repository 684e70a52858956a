"""Stage deduplicate: verified near-duplicates of seeds, curated problems and each other leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.core.config import DedupSettings
from tasks.core.dedup import Deduplication, Indices, Sketch, joined, offsets_of
from tasks.core.dedup import decide as settle
from tasks.core.rows import Edge
from tasks.io.artifacts import Artifact, Store
from tasks.io.mapper import Mapper
from tasks.io.tables import schema
from tasks.stages.ahead import ahead, cpu_mapper
from tasks.stages.chunks import shard_sizes
from tasks.stages.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.stages.pending import Pending, rows_digest
from tasks.stages.shard_work import ToMask, ToSketch, ToThin, masked, sketched, thinned

VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """What becomes of every problem, by position: those of the sources first, then the candidates. No texts, so that a
    million candidates take little memory.

    `near[p]` is the problem that p is too near to, p itself where it stays. `first`, `second` (first < second, sorted by
    second), `jaccard` are the verified pairs with a candidate. `same_near` and `same_pair` say where the two differ in
    numbers only. `notes` are for the record.
    """

    fixed: int
    ids: pa.Array
    roles: pa.Array
    near: Indices
    same_near: NDArray[np.bool_]
    first: Indices
    second: Indices
    jaccard: NDArray[np.float64]
    same_pair: NDArray[np.bool_]
    notes: dict[str, Any]


def deduplicate(run: Run, sources: Artifact, candidates: Artifact) -> Artifact:
    """Candidates below the threshold against every seed, every curated problem and every kept candidate; a shard of
    theirs is a shard of the result."""
    settings = run.config.dedup
    stage = Stage(
        name="deduplicate", version=VERSION, unit="candidates", inputs=(sources, candidates),
        settings={"dedup": settings.identity()},
    )  # fmt: skip
    sizes = cache(lambda: shard_sizes(run.store, candidates))

    with Lazy(lambda: cpu_mapper(run, lambda: sum(sizes()))) as mapper:
        decision = cache(lambda: decide(run.store, sources, candidates, settings, mapper.get()))

        def item(index: int) -> ToThin:
            return to_thin(decision(), run.store, candidates, index, sizes())

        def content(index: int) -> str:
            return content_of(decision(), run.store, candidates, index, sizes())

        pending = Pending(run.store, stage, content)
        tables = ahead(mapper, thinned, item, lambda: len(sizes()), pending)

        def work(index: int, _at: object) -> Shard:
            edges = edges_of(decision(), index, sizes())
            return Shard(
                incoming=sizes()[index],
                tables={**tables(index), "edges": (Edge, edges)},
                notes=notes_of(decision(), index),
            )

        return run_shards(run, stage, sizes, work, pending)


def decide(
    store: Store, sources: Artifact, candidates: Artifact, settings: DedupSettings, mapper: Mapper[Any, Any]
) -> Decision:
    """Greedy by (source problems first, then id). Every source problem stays, so that a candidate near any of them leaves,
    even when that source problem is itself a near-duplicate of another one."""
    artifacts = (sources, candidates)
    paths = [
        store.shard_path(one, shard.index, "problems") for one in artifacts for shard in store.shards(one)
    ]
    parts = list(mapper(sketched, [ToSketch(path=path, settings=settings) for path in paths]))
    ids = pa.concat_arrays([part.ids for part in parts])
    roles = pa.concat_arrays([part.roles for part in parts])
    counts = np.array([len(part.ids) for part in parts])
    sketches = [part.sketch for part in parts]
    del parts
    found = found_among(ids, joined(sketches), sources.num_rows, settings)
    near, edges = near_and_edges(found, sources.num_rows)
    leaving = np.flatnonzero(near != np.arange(len(near)))
    one, other = np.concatenate([leaving, edges["j"]]), np.concatenate([near[leaving], edges["i"]])
    same = same_templates(paths, counts, one, other, mapper)
    same_near = np.zeros(len(near), dtype=np.bool_)
    same_near[leaving] = same[: len(leaving)]
    return Decision(
        fixed=sources.num_rows, ids=ids, roles=roles, near=near, same_near=same_near,
        first=edges["i"], second=edges["j"], jaccard=edges["jaccard"], same_pair=same[len(leaving) :],
        notes={"all_edges": found.whole, "agreements": found.agreements, "compared": found.compared},
    )  # fmt: skip


def found_among(ids: pa.Array, sketch: Sketch, fixed: int, settings: DedupSettings) -> Deduplication:
    """The greedy pass by (one of the first `fixed`, id)."""
    orders = [sort_indices(ids[:fixed]), fixed + sort_indices(ids[fixed:])]
    order = np.concatenate(orders).astype(np.int64)
    return settle(sketch, order, threshold=settings.threshold, fixed=fixed)


def sort_indices(texts: pa.Array) -> NDArray[np.uint64]:
    """Positions in the order of the texts; equal ones stay in theirs."""
    return np.asarray(pc.sort_indices(texts))  # pyright: ignore[reportAttributeAccessIssue]


def near_and_edges(found: Deduplication, fixed: int) -> tuple[Indices, NDArray[np.void]]:
    """What every problem is too near to (a candidate near source problems to the nearest of these), and the pairs with a
    candidate, sorted by (second, first)."""
    edges = found.edges[found.edges["j"] >= fixed]
    edges = edges[np.lexsort((edges["i"], edges["j"]))]
    near = found.cluster_id.copy()
    to_source = np.flatnonzero(edges["i"] < fixed)
    nearest_last = to_source[np.lexsort((edges["i"][to_source], edges["jaccard"][to_source]))]
    near[edges["j"][nearest_last]] = edges["i"][nearest_last]
    return near, edges


def same_templates(
    paths: Sequence[Any], counts: Indices, one: Indices, other: Indices, mapper: Mapper[Any, Any]
) -> NDArray[np.bool_]:
    """Whether one[k] and other[k] are the same problem with other numbers; each text is looked at once."""
    starts = offsets_of(counts)
    asked = np.unique(np.concatenate([one, other]))
    cuts = np.searchsorted(asked, starts)
    items = [
        ToMask(path=path, rows=asked[low:high] - start)
        for path, start, low, high in zip(paths, starts, cuts, cuts[1:], strict=False)
        if high > low
    ]
    templates = np.concatenate([np.empty((0, 2), dtype=np.uint64), *mapper(masked, items)])
    pair = templates[np.searchsorted(asked, one)], templates[np.searchsorted(asked, other)]
    return (pair[0] == pair[1]).all(axis=1)


def to_thin(
    decision: Decision, store: Store, candidates: Artifact, index: int, sizes: Sequence[int]
) -> ToThin:
    """What is to be done with shard `index` of the candidates."""
    low = decision.fixed + sum(sizes[:index])
    places = np.arange(low, low + sizes[index])
    leaving = places[decision.near[places] != places]
    near = pa.array(decision.near[leaving])
    details = [
        f"near {role} problem {name}{'; they differ in numbers only' if same else ''}"
        for role, name, same in zip(
            decision.roles.take(near).to_pylist(), decision.ids.take(near).to_pylist(),
            decision.same_near[leaving].tolist(), strict=True,
        )
    ]  # fmt: skip
    return ToThin(
        path=store.shard_path(candidates, index, "problems"), leaving=leaving - low, details=details
    )


def notes_of(decision: Decision, index: int) -> dict[str, Any]:
    """What is recorded with shard `index`: the counts of the whole stand with the first."""
    return decision.notes if index == 0 else {}


def content_of(
    decision: Decision, store: Store, candidates: Artifact, index: int, sizes: Sequence[int]
) -> str:
    """Digest of what shard `index` is made of: its candidates, and what the decision, which is about all of them, says of
    these."""
    thin = to_thin(decision, store, candidates, index, sizes)
    said = (thin.leaving.tolist(), thin.details, edges_of(decision, index, sizes).to_pydict())
    return rows_digest((store.table_digest(candidates, index, "problems"), *said, notes_of(decision, index)))


def edges_of(decision: Decision, index: int, sizes: Sequence[int]) -> pa.Table:
    """The verified pairs of which the second is in shard `index` of the candidates."""
    low = decision.fixed + sum(sizes[:index])
    start, stop = np.searchsorted(decision.second, [low, low + sizes[index]]).tolist()
    columns = {
        "first_id": decision.ids.take(pa.array(decision.first[start:stop])),
        "second_id": decision.ids.take(pa.array(decision.second[start:stop])),
        "jaccard": pa.array(decision.jaccard[start:stop]),
        "same_template": pa.array(decision.same_pair[start:stop]),
    }
    return pa.table(columns, schema=schema(Edge))
