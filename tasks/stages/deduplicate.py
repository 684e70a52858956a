"""Stage deduplicate: verified near-duplicates of seeds, curated problems and each other leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tasks.core.config import DedupSettings
from tasks.core.dedup import near_duplicates, template_key
from tasks.core.rows import Edge, Problem, Reason, Reject, Role
from tasks.io.artifacts import Artifact
from tasks.stages.chunks import chunk, chunk_sizes
from tasks.stages.driver import Run, Shard, Stage, run_shards

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The candidates in order, the reject of every one that leaves, and the verified edges by candidate."""

    candidates: Sequence[Problem]
    rejects: dict[str, Reject]
    edges: dict[str, list[Edge]]


def deduplicate(run: Run, sources: Artifact, candidates: Artifact) -> Artifact:
    """Candidates below the threshold against every seed, every curated problem and every kept candidate."""
    settings, size = run.config.dedup, run.config.run.shard_rows
    stage = Stage(
        name="deduplicate", version=VERSION, unit="candidates", inputs=(sources, candidates),
        settings={"dedup": settings.identity(), "shard_rows": size},
    )  # fmt: skip

    @cache
    def decision() -> Decision:
        fixed = list(run.store.rows(sources, "problems", Problem))
        return decide(fixed, list(run.store.rows(candidates, "problems", Problem)), settings)

    def work(index: int, _at: object) -> Shard:
        found, part = decision(), chunk(decision().candidates, size, index)
        kept = [row for row in part if row.id not in found.rejects]
        rejects = [found.rejects[row.id] for row in part if row.id in found.rejects]
        edges = [edge for row in part for edge in found.edges.get(row.id, ())]
        tables = {"problems": (Problem, kept), "rejects": (Reject, rejects), "edges": (Edge, edges)}
        return Shard(incoming=len(part), tables=tables)

    return run_shards(run, stage, lambda: chunk_sizes(candidates.num_rows, size), work)


def decide(fixed: Sequence[Problem], candidates: Sequence[Problem], settings: DedupSettings) -> Decision:
    """Greedy by (source problems first, then id). A candidate near any source problem leaves, even when that source
    problem is itself a near-duplicate of another one."""
    rows = [*fixed, *candidates]
    result = near_duplicates(
        [row.text for row in rows],
        threshold=settings.threshold, ngram=settings.ngram, seed=settings.seed,
        priority=[(row.role is Role.EVOLVED, row.id) for row in rows],
    )  # fmt: skip
    edges: dict[str, list[Edge]] = {}
    nearest: dict[int, tuple[float, int]] = {}
    for first, second, jaccard in result.edges:
        low, high = (int(first), int(second)) if first < second else (int(second), int(first))
        if high < len(fixed):
            continue
        one, two = rows[low], rows[high]
        same = template_key(one.text) == template_key(two.text)
        edges.setdefault(two.id, []).append(
            Edge(first_id=one.id, second_id=two.id, jaccard=float(jaccard), same_template=same)
        )
        if low < len(fixed):
            nearest[high] = max(nearest.get(high, (0.0, low)), (float(jaccard), low))
    rejects = {}
    for position in range(len(fixed), len(rows)):
        if position in nearest:
            rejects[rows[position].id] = _reject(rows[position], rows[nearest[position][1]])
        elif not result.keep[position]:
            rejects[rows[position].id] = _reject(rows[position], rows[int(result.cluster_id[position])])
    return Decision(candidates=candidates, rejects=rejects, edges=edges)


def _reject(row: Problem, kept: Problem) -> Reject:
    same = template_key(row.text) == template_key(kept.text)
    return Reject(
        problem_id=row.id, stage="deduplicate", reason=Reason.NEAR_DUPLICATE, text=row.text[:2000],
        detail=f"near {kept.role} problem {kept.id}" + ("; they differ in numbers only" if same else ""),
    )  # fmt: skip
