"""Clustering of a teacher's answers to one problem by meaning.

Stage `cluster` first decides `pairs_to_decide` for many problems, sends the undecided pairs to the judge, and then calls
`cluster_answers` with a `same` that looks up all decisions. Both functions compare answers through their representatives:
the first of all answers with the same normalised spelling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from tasks.answers.notation import normalise

Linkage = Literal["union_find", "complete"]
Pair = tuple[str, str]

DROPPED = -1
"""Label of a response that is excluded from the clustering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVerdict:
    """The result of `same` for two answers, which are in sorted order."""

    first: str
    second: str
    same: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """The clusters of the answers to one problem.

    `labels[i]` is the cluster of answer i, numbered by first appearance, or `DROPPED`. `representatives[c]` is the first
    answer of cluster c (None for unparsed responses). `judge_calls` is the number of calls of `same`, which `verdicts`
    lists; `transitivity_violations` counts the verdicts that contradict the clusters: "different" for two answers in one
    cluster (union-find), or "same" for two answers in different clusters (complete linkage).
    """

    labels: tuple[int, ...]
    representatives: tuple[str | None, ...]
    judge_calls: int
    transitivity_violations: int
    verdicts: tuple[PairVerdict, ...]


def cluster_answers(
    answers: Sequence[str | None],
    same: Callable[[str, str], bool],
    *,
    unparsed: Literal["own", "one", "drop"] = "own",
    linkage: Linkage = "union_find",
) -> Clustering:
    """Cluster the answers to one problem by meaning.

    Answers with equal normalised spelling are joined without a call. `same` is called once for every other pair, with the
    two answers in sorted order, and the answers are grouped by its verdicts.

    `union_find` takes the transitive closure (as in the papers). `complete` adds an answer to a cluster only if it is the
    same as all of its members; answers are processed in the order of their normalised spelling and join the first such
    cluster, so the order of the responses does not matter.

    None is an unparsed response. `own` puts each into its own cluster, so that failures count as uncertainty; `one` puts
    all into one cluster; `drop` excludes them.
    """
    representatives = _representatives(answers)
    pairs = _pairs(representatives.values())
    verdicts = tuple(PairVerdict(first=a, second=b, same=same(a, b)) for a, b in pairs)
    joined = {(verdict.first, verdict.second) for verdict in verdicts if verdict.same}
    group = {"union_find": _closed, "complete": _complete}[linkage]
    roots = group([representatives[spelling] for spelling in sorted(representatives)], joined)
    labels = _numbered(
        _unparsed_key(index, unparsed)
        if answer is None
        else ("answer", roots[representatives[normalise(answer)]])
        for index, answer in enumerate(answers)
    )
    return Clustering(
        labels=labels,
        representatives=tuple(
            answers[labels.index(label)] for label in range(max(labels, default=DROPPED) + 1)
        ),
        judge_calls=len(verdicts),
        transitivity_violations=_violations(verdicts, roots),
        verdicts=verdicts,
    )


def pairs_to_decide(answers: Sequence[str | None]) -> list[Pair]:
    """Return every pair for which `cluster_answers` will call `same`: in order of first appearance, each in sorted order."""
    return _pairs(_representatives(answers).values())


def _representatives(answers: Sequence[str | None]) -> dict[str, str]:
    """Return {normalised spelling: first answer with this spelling}."""
    found: dict[str, str] = {}
    for answer in answers:
        if answer is not None:
            found.setdefault(normalise(answer), answer)
    return found


def _pairs(representatives: Iterable[str]) -> list[Pair]:
    return [(min(a, b), max(a, b)) for a, b in combinations(representatives, 2)]


def _closed(answers: Sequence[str], joined: Set[Pair]) -> dict[str, str]:
    """Return {answer: root of its cluster}, by union-find."""
    roots = {answer: answer for answer in answers}
    for first, second in joined:
        roots[_root(roots, first)] = _root(roots, second)
    return {answer: _root(roots, answer) for answer in answers}


def _complete(answers: Sequence[str], joined: Set[Pair]) -> dict[str, str]:
    """Return {answer: first member of its cluster}, where all pairs of a cluster are in `joined`."""
    clusters: list[list[str]] = []
    for answer in answers:
        for members in clusters:
            if all((min(answer, other), max(answer, other)) in joined for other in members):
                members.append(answer)
                break
        else:
            clusters.append([answer])
    return {answer: members[0] for members in clusters for answer in members}


def _violations(verdicts: Sequence[PairVerdict], roots: Mapping[str, str]) -> int:
    """Return the number of verdicts that contradict the clusters."""
    return sum(verdict.same != (roots[verdict.first] == roots[verdict.second]) for verdict in verdicts)


def _numbered(keys: Iterable[tuple[str, str | int] | None]) -> tuple[int, ...]:
    """Return the number of each key, by order of first appearance; None becomes `DROPPED`."""
    numbers: dict[tuple[str, str | int], int] = {}
    return tuple(DROPPED if key is None else numbers.setdefault(key, len(numbers)) for key in keys)


def _root(roots: dict[str, str], answer: str) -> str:
    while roots[answer] != answer:
        answer = roots[answer]
    return answer


def _unparsed_key(index: int, unparsed: Literal["own", "one", "drop"]) -> tuple[str, str | int] | None:
    return {"own": ("unparsed", index), "one": ("unparsed", 0), "drop": None}[unparsed]
