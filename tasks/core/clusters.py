"""Grouping a teacher's answers to one problem by meaning, and the questions that this leaves to a judge.

A stage first takes the `pair_decisions` of many problems, asks the judge about the open ones, and then calls
`cluster_answers` with a `same` that looks all of them up. Both functions see an answer through its representative: the
first of the answers that `normalise` alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from tasks.core.notation import normalise

Linkage = Literal["union_find", "complete"]
Pair = tuple[str, str]

DROPPED = -1
"""The label of a response that takes no part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVerdict:
    """What `same` said about two answers, given in sorted order."""

    first: str
    second: str
    same: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """`labels[i]` is the cluster of answer i, numbered by first appearance, or `DROPPED`.

    `representatives[c]` is the first answer of cluster c (None for unparsed responses). `judge_calls` counts the calls
    of `same`, listed in `verdicts`; `transitivity_violations` those of them that the clusters contradict: "different" of
    two answers in one cluster (union-find) or "same" of two answers in two (complete linkage).
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
    """Join equal spellings without a call, ask `same` once about every other pair, and group by the verdicts.

    `union_find` closes them transitively (the papers' way). `complete` joins an answer only to a cluster with all of whose
    members it is the same; answers come in the order of their normalised spelling and take the first such cluster, so
    that no order of responses matters. `same` gets its two answers in sorted order. None is an unparsed response: a
    cluster of its own for each (`own`, so that failures look uncertain), one for all (`one`), or none (`drop`).
    """
    representatives = _representatives(answers)
    verdicts = tuple(
        PairVerdict(first=first, second=second, same=same(first, second))
        for first, second in _pairs(representatives.values())
    )
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
        transitivity_violations=sum(
            verdict.same != (roots[verdict.first] == roots[verdict.second]) for verdict in verdicts
        ),
        verdicts=verdicts,
    )


def pair_decisions(
    answers: Sequence[str | None], decide: Callable[[str, str], bool | None]
) -> dict[Pair, bool | None]:
    """What `decide` says about every pair that `cluster_answers` will ask about, each in sorted order; None is open.

    Ordered by first appearance. With `decide = lambda a, b: None` a judge gets every pair of different spellings.
    """
    return {pair: decide(*pair) for pair in _pairs(_representatives(answers).values())}


def _representatives(answers: Sequence[str | None]) -> dict[str, str]:
    """Normalised spelling -> the first answer written so."""
    found: dict[str, str] = {}
    for answer in answers:
        if answer is not None:
            found.setdefault(normalise(answer), answer)
    return found


def _pairs(representatives: Iterable[str]) -> list[Pair]:
    return [(min(a, b), max(a, b)) for a, b in combinations(representatives, 2)]


def _closed(answers: Sequence[str], joined: Set[Pair]) -> dict[str, str]:
    """Answer -> the root of its cluster, by union-find."""
    roots = {answer: answer for answer in answers}
    for first, second in joined:
        roots[_root(roots, first)] = _root(roots, second)
    return {answer: _root(roots, answer) for answer in answers}


def _complete(answers: Sequence[str], joined: Set[Pair]) -> dict[str, str]:
    """Answer -> the first member of its cluster; all pairs of a cluster are joined."""
    clusters: list[list[str]] = []
    for answer in answers:
        for members in clusters:
            if all((min(answer, other), max(answer, other)) in joined for other in members):
                members.append(answer)
                break
        else:
            clusters.append([answer])
    return {answer: members[0] for members in clusters for answer in members}


def _numbered(keys: Iterable[tuple[str, str | int] | None]) -> tuple[int, ...]:
    """Keys as numbers in order of first appearance; None as `DROPPED`."""
    numbers: dict[tuple[str, str | int], int] = {}
    return tuple(DROPPED if key is None else numbers.setdefault(key, len(numbers)) for key in keys)


def _root(roots: dict[str, str], answer: str) -> str:
    while roots[answer] != answer:
        answer = roots[answer]
    return answer


def _unparsed_key(index: int, unparsed: Literal["own", "one", "drop"]) -> tuple[str, str | int] | None:
    return {"own": ("unparsed", index), "one": ("unparsed", 0), "drop": None}[unparsed]
