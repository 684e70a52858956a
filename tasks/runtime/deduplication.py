"""Near-duplicate removal over the shards of a stage: the decision, and what becomes of each shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.config import DedupSettings
from tasks.problems.arrays import Indices, offsets_of
from tasks.problems.dedup import Deduplication, Sketch, joined
from tasks.problems.dedup import decide as settle
from tasks.processes.mapper import Mapper
from tasks.rows import Edge
from tasks.runtime.pending import rows_digest
from tasks.runtime.shard_work import DedupWork, SketchWork, TemplateWork, sketch_file, template_digests
from tasks.storage.artifacts import Artifact, Store
from tasks.storage.tables import schema


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """The outcome for every problem by position: the `fixed` source problems first, then the candidates.

    It holds no texts, so that a million candidates take little memory. `near[p]` is the problem that p is a near-duplicate
    of, or p itself if it is kept. `first`, `second` (first < second, sorted by second) and `jaccard` are the verified pairs
    that include a candidate. `same_near` and `same_pair` are True where the two texts differ in numbers only. `notes` go
    into the record.
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


def decide(
    store: Store, sources: Artifact, candidates: Artifact, settings: DedupSettings, mapper: Mapper[Any, Any]
) -> Decision:
    """Decide greedily in the order (source problems first, then by id).

    All source problems are kept, so a candidate near any of them is rejected, even if that source problem is itself a
    near-duplicate of another one.
    """
    artifacts = (sources, candidates)
    paths = [
        store.shard_path(one, shard.index, "problems") for one in artifacts for shard in store.shards(one)
    ]
    parts = list(mapper(sketch_file, [SketchWork(path=path, settings=settings) for path in paths]))
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
    """Run the greedy pass: the first `fixed` problems in the order of their ids, then the others."""
    orders = [sort_indices(ids[:fixed]), fixed + sort_indices(ids[fixed:])]
    order = np.concatenate(orders).astype(np.int64)
    return settle(sketch, order, threshold=settings.threshold, fixed=fixed)


def sort_indices(texts: pa.Array) -> NDArray[np.uint64]:
    """Return the positions that sort the texts (stable)."""
    return np.asarray(pc.sort_indices(texts))  # pyright: ignore[reportAttributeAccessIssue]


def near_and_edges(found: Deduplication, fixed: int) -> tuple[Indices, NDArray[np.void]]:
    """Return the near-duplicate of every problem, and the pairs that include a candidate, sorted by (second, first).

    A candidate near several source problems is assigned to the nearest of them.
    """
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
    """Return whether one[k] and other[k] differ in numbers only, for every k. Each text is read once."""
    starts = offsets_of(counts)
    needed = np.unique(np.concatenate([one, other]))
    cuts = np.searchsorted(needed, starts)
    items = [
        TemplateWork(path=path, rows=needed[low:high] - start)
        for path, start, low, high in zip(paths, starts, cuts, cuts[1:], strict=False)
        if high > low
    ]
    templates = np.concatenate([np.empty((0, 2), dtype=np.uint64), *mapper(template_digests, items)])
    pair = templates[np.searchsorted(needed, one)], templates[np.searchsorted(needed, other)]
    return (pair[0] == pair[1]).all(axis=1)


def dedup_work(
    decision: Decision, store: Store, candidates: Artifact, index: int, sizes: Sequence[int]
) -> DedupWork:
    """Return the work item for shard `index` of the candidates."""
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
    return DedupWork(
        path=store.shard_path(candidates, index, "problems"), leaving=leaving - low, details=details
    )


def notes_of(decision: Decision, index: int) -> dict[str, Any]:
    """Return the notes of shard `index`. The first shard holds the counts of the whole stage."""
    return decision.notes if index == 0 else {}


def content_of(
    decision: Decision, store: Store, candidates: Artifact, index: int, sizes: Sequence[int]
) -> str:
    """Return a digest of everything that shard `index` depends on: its candidates and its part of the decision."""
    work_item = dedup_work(decision, store, candidates, index, sizes)
    decided = (work_item.leaving.tolist(), work_item.details, edges_of(decision, index, sizes).to_pydict())
    return rows_digest(
        (store.table_digest(candidates, index, "problems"), *decided, notes_of(decision, index))
    )


def edges_of(decision: Decision, index: int, sizes: Sequence[int]) -> pa.Table:
    """Return the verified pairs whose second problem is in shard `index` of the candidates."""
    low = decision.fixed + sum(sizes[:index])
    start, stop = np.searchsorted(decision.second, [low, low + sizes[index]]).tolist()
    columns = {
        "first_id": decision.ids.take(pa.array(decision.first[start:stop])),
        "second_id": decision.ids.take(pa.array(decision.second[start:stop])),
        "jaccard": pa.array(decision.jaccard[start:stop]),
        "same_template": pa.array(decision.same_pair[start:stop]),
    }
    return pa.table(columns, schema=schema(Edge))
