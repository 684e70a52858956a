"""Stage deduplicate: verified near-duplicates of seeds, curated problems and each other leave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tasks.core.config import DedupSettings
from tasks.core.dedup import Indices, near_duplicates, template_key
from tasks.core.rows import Edge, Problem, Reason, Reject, Role
from tasks.io.artifacts import Artifact
from tasks.stages.chunks import shard_rows, shard_sizes
from tasks.stages.driver import Run, Shard, Stage, run_shards

VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """What becomes of every problem, by position: those of the sources first, then the candidates. No texts, so that a
    million candidates take little memory.

    `near[p]` is the problem that p is too near to, p itself where it stays. `first`, `second` (first < second, sorted by
    second), `jaccard` are the verified pairs with a candidate. `same_near` and `same_pair` say where the two differ in
    numbers only.
    """

    fixed: int
    ids: Sequence[str]
    roles: Sequence[Role]
    near: Indices
    same_near: NDArray[np.bool_]
    first: Indices
    second: Indices
    jaccard: NDArray[np.float64]
    same_pair: NDArray[np.bool_]


def deduplicate(run: Run, sources: Artifact, candidates: Artifact) -> Artifact:
    """Candidates below the threshold against every seed, every curated problem and every kept candidate; a shard of
    theirs is a shard of the result."""
    settings = run.config.dedup
    stage = Stage(
        name="deduplicate", version=VERSION, unit="candidates", inputs=(sources, candidates),
        settings={"dedup": settings.identity()},
    )  # fmt: skip
    sizes = cache(lambda: shard_sizes(run.store, candidates))

    @cache
    def decision() -> Decision:
        problems = (run.store.rows(artifact, "problems", Problem) for artifact in (sources, candidates))
        return decide(chain.from_iterable(problems), sources.num_rows, settings)

    def work(index: int, _at: object) -> Shard:
        rows = shard_rows(run.store, candidates, index, "problems", Problem)
        return outcome(decision(), rows, sum(sizes()[:index]))

    return run_shards(run, stage, sizes, work)


def decide(rows: Iterable[Problem], fixed: int, settings: DedupSettings) -> Decision:
    """Greedy by (source problems first, then id). A candidate near any source problem leaves, even when that source
    problem is itself a near-duplicate of another one. The first `fixed` rows are those of the sources."""
    ids, roles, texts = [], [], []
    for row in rows:
        ids.append(row.id)
        roles.append(row.role)
        texts.append(row.text)
    found = near_duplicates(
        texts,
        threshold=settings.threshold, ngram=settings.ngram, seed=settings.seed,
        priority=[f"{role is Role.EVOLVED:d}{name}" for role, name in zip(roles, ids, strict=True)],
    )  # fmt: skip
    edges = found.edges[found.edges["j"] >= fixed]
    edges = edges[np.lexsort((edges["i"], edges["j"]))]
    first, second, jaccard = edges["i"], edges["j"], edges["jaccard"]
    near = found.cluster_id.copy()
    to_source = np.flatnonzero(first < fixed)
    nearest_last = to_source[np.lexsort((first[to_source], jaccard[to_source]))]
    near[second[nearest_last]] = first[nearest_last]
    leaving = np.flatnonzero(near != np.arange(len(near)))
    same = _same_templates(texts, np.concatenate([leaving, second]), np.concatenate([near[leaving], first]))
    same_near = np.zeros(len(near), dtype=np.bool_)
    same_near[leaving] = same[: len(leaving)]
    return Decision(
        fixed=fixed, ids=ids, roles=roles, near=near, same_near=same_near,
        first=first, second=second, jaccard=jaccard, same_pair=same[len(leaving) :],
    )  # fmt: skip


def _same_templates(texts: Sequence[str], one: Indices, other: Indices) -> NDArray[np.bool_]:
    """Whether one[k] and other[k] are the same problem with other numbers; each text is looked at once."""
    numbers: dict[str, int] = {}
    templates = np.zeros(len(texts), dtype=np.int64)
    for place in map(int, np.unique(np.concatenate([one, other]))):
        templates[place] = numbers.setdefault(template_key(texts[place]), len(numbers))
    return templates[one] == templates[other]


def outcome(decision: Decision, rows: Sequence[Problem], start: int) -> Shard:
    """The shard of the candidates `rows`, of which the first is candidate number `start`."""
    low = decision.fixed + start
    kept, rejects = [], []
    for place, row in enumerate(rows, start=low):
        if decision.near[place] == place:
            kept.append(row)
        else:
            rejects.append(_reject(decision, place, row))
    pairs = range(*np.searchsorted(decision.second, [low, low + len(rows)]).tolist())
    edges = [_edge(decision, pair) for pair in pairs]
    tables = {"problems": (Problem, kept), "rejects": (Reject, rejects), "edges": (Edge, edges)}
    return Shard(incoming=len(rows), tables=tables)


def _edge(decision: Decision, pair: int) -> Edge:
    return Edge(
        first_id=decision.ids[int(decision.first[pair])],
        second_id=decision.ids[int(decision.second[pair])],
        jaccard=float(decision.jaccard[pair]),
        same_template=bool(decision.same_pair[pair]),
    )


def _reject(decision: Decision, place: int, row: Problem) -> Reject:
    near = int(decision.near[place])
    numbers_only = "; they differ in numbers only" if decision.same_near[place] else ""
    return Reject(
        problem_id=row.id, stage="deduplicate", reason=Reason.NEAR_DUPLICATE, text=row.text[:2000],
        detail=f"near {decision.roles[near]} problem {decision.ids[near]}{numbers_only}",
    )  # fmt: skip
