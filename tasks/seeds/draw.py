"""Sampling of rows from a stream, independent of their order, with memory for little more than the kept rows."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import TypeVar

import xxhash

from tasks.rows import Problem, Reason, Reject
from tasks.seeds.kinds import Loaded, SeedOutcome

T = TypeVar("T")


def draw_key(seed: int, source_id: str) -> int:
    """Return the position of a row in the draw: a 64-bit hash of (seed, id), independent of order and of other rows."""
    return xxhash.xxh3_64_intdigest(f"{seed}\x1f{source_id}".encode("utf-8", "surrogatepass"))


def draw(
    rows: Iterable[T], *, key: Callable[[T], int], outcome: Callable[[T], SeedOutcome], target: int | None
) -> Loaded:
    """Take `rows` in the order of their keys until `target` of them are problems (None: all rows).

    The result is the same as after sorting all rows by key, but the stream is read once, and `outcome` is called only for
    rows that can still be selected. Of several rows with one key (the same id), one is kept and the others are rejected:
    benchmark problems precede other problems, these precede rejects, and ties go to the smaller text, answer and
    solution. The rows for a smaller target are a prefix of those for a larger one.
    """
    pool, seen = _Pool(target), 0
    for row in rows:
        seen += 1
        place = key(row)
        if pool.may_take(place):
            pool.add(place, outcome(row))
    return Loaded(outcomes=pool.in_order(), seen=seen, target=target)


class _Pool:
    """The rows selected from the part of the stream read so far; a heap gives access to the last of them."""

    def __init__(self, target: int | None) -> None:
        self.target, self.kept = target, 0
        self.heap: list[int] = []  # negated keys
        self.held: dict[int, list[SeedOutcome]] = {}

    def may_take(self, place: int) -> bool:
        return self.target is None or self.kept < self.target or place <= -self.heap[0]

    def add(self, place: int, outcome: SeedOutcome) -> None:
        held = self.held.setdefault(place, [])
        if not held:
            heapq.heappush(self.heap, -place)
        had_problem = any(isinstance(one, Problem) for one in held)
        held.append(outcome)
        self.kept += isinstance(outcome, Problem) and not had_problem
        while self.target is not None and self.kept >= self.target and self._last_is_surplus():
            last = self.held.pop(-heapq.heappop(self.heap))
            self.kept -= any(isinstance(one, Problem) for one in last)

    def _last_is_surplus(self) -> bool:
        """Return whether the last row comes after the target-th problem, either as a problem or as a reject."""
        last = self.held[-self.heap[0]]
        return self.kept > (self.target or 0) or not any(isinstance(one, Problem) for one in last)

    def in_order(self) -> tuple[SeedOutcome, ...]:
        return tuple(one for place in sorted(self.held) for one in _first_wins(self.held[place]))


def _first_wins(same: list[SeedOutcome]) -> list[SeedOutcome]:
    first, *others = sorted(same, key=_rank)
    return [first, *(_repeated(one, first) for one in others)]


def _rank(outcome: SeedOutcome) -> tuple[str, ...]:
    if isinstance(outcome, Problem):
        place = "0" if outcome.benchmark_root else "1"
        return place, outcome.text, outcome.answer or "", outcome.solution or ""
    return "2", outcome.text, outcome.reason, outcome.detail


def _repeated(outcome: SeedOutcome, first: SeedOutcome) -> Reject:
    if isinstance(outcome, Reject):
        return outcome
    same_text = isinstance(first, Problem) and first.text == outcome.text
    return Reject(
        problem_id=outcome.id, stage="aggregate", text=outcome.text[:2000],
        reason=Reason.EXACT_DUPLICATE if same_text else Reason.DUPLICATE_ID,
        detail=f"{outcome.source} holds {outcome.source_id} more than once",
    )  # fmt: skip
