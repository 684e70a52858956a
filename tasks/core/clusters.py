"""Grouping a teacher's answers to one problem by meaning, and the questions that this leaves to a judge.

A stage first collects the `undecided_pairs` of many problems, asks the judge about each, and then calls
`cluster_answers` with a `same` that looks the verdicts up. Both functions see an answer through its representative: the
first of the answers that `normalise` alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from tasks.core.notation import normalise

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
    of `same`, listed in `verdicts`; `transitivity_violations` those of them that said "different" of two answers which
    others joined.
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
) -> Clustering:
    """Join equal spellings without a call, ask `same` once about every other pair, and close transitively (union-find).

    `same` gets its two answers in sorted order. None is an unparsed response: a cluster of its own for each (`own`, so
    that failures look uncertain), one cluster for all (`one`), or no cluster (`drop`).
    """
    representatives = _representatives(answers)
    verdicts = tuple(
        PairVerdict(first=first, second=second, same=same(first, second))
        for first, second in _pairs(representatives.values())
    )
    roots = {answer: answer for answer in representatives.values()}
    for verdict in verdicts:
        if verdict.same:
            roots[_root(roots, verdict.first)] = _root(roots, verdict.second)
    labels = _numbered(
        _unparsed_key(index, unparsed)
        if answer is None
        else ("answer", _root(roots, representatives[normalise(answer)]))
        for index, answer in enumerate(answers)
    )
    return Clustering(
        labels=labels,
        representatives=tuple(
            answers[labels.index(label)] for label in range(max(labels, default=DROPPED) + 1)
        ),
        judge_calls=len(verdicts),
        transitivity_violations=sum(
            not verdict.same and _root(roots, verdict.first) == _root(roots, verdict.second)
            for verdict in verdicts
        ),
        verdicts=verdicts,
    )


def undecided_pairs(
    answers: Sequence[str | None], decide: Callable[[str, str], bool | None]
) -> tuple[tuple[str, str], ...]:
    """The pairs that `cluster_answers` will ask about and that `decide` leaves open (None), each in sorted order.

    Ordered by first appearance. With `decide = lambda a, b: None` a judge gets every pair of different spellings.
    """
    return tuple(pair for pair in _pairs(_representatives(answers).values()) if decide(*pair) is None)


def _representatives(answers: Sequence[str | None]) -> dict[str, str]:
    """Normalised spelling -> the first answer written so."""
    found: dict[str, str] = {}
    for answer in answers:
        if answer is not None:
            found.setdefault(normalise(answer), answer)
    return found


def _pairs(representatives: Iterable[str]) -> list[tuple[str, str]]:
    return [(min(a, b), max(a, b)) for a, b in combinations(representatives, 2)]


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
