"""Drawing from a stream: the same rows whatever their order, with memory for little more than what is kept."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import TypeVar

import xxhash

from tasks.core.rows import Problem, Reason, Reject
from tasks.seeds.kinds import Loaded, Outcome

T = TypeVar("T")


def draw_key(seed: int, source_id: str) -> int:
    """Place of a row in the draw, 64 bits: a hash of (seed, id), hence the same in any order and any subset."""
    return xxhash.xxh3_64_intdigest(f"{seed}\x1f{source_id}".encode("utf-8", "surrogatepass"))


def draw(
    rows: Iterable[T], *, key: Callable[[T], int], outcome: Callable[[T], Outcome], target: int | None
) -> Loaded:
    """Go through `rows` in the order of their keys until `target` of them are problems (all rows when it is None).

    The result is that of sorting all rows by key first; the stream is read once and `outcome` is asked only for rows
    that can still take part. Of rows with one key (the same id) a benchmark problem comes before another problem and
    that before a reject, then the smaller text, answer and solution; the others are rejects. A larger target begins
    with the rows of a smaller one.
    """
    pool, seen = _Pool(target), 0
    for row in rows:
        seen += 1
        place = key(row)
        if pool.may_take(place):
            pool.add(place, outcome(row))
    return Loaded(outcomes=pool.in_order(), seen=seen, target=target)


class _Pool:
    """The rows that are drawn as far as the stream was read, the last of them on top of a heap."""

    def __init__(self, target: int | None) -> None:
        self.target, self.kept = target, 0
        self.heap: list[int] = []  # negated keys
        self.held: dict[int, list[Outcome]] = {}

    def may_take(self, place: int) -> bool:
        return self.target is None or self.kept < self.target or place <= -self.heap[0]

    def add(self, place: int, outcome: Outcome) -> None:
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
        """Beyond the target-th problem: a problem too many, or a reject behind the last problem."""
        last = self.held[-self.heap[0]]
        return self.kept > (self.target or 0) or not any(isinstance(one, Problem) for one in last)

    def in_order(self) -> tuple[Outcome, ...]:
        return tuple(one for place in sorted(self.held) for one in _first_wins(self.held[place]))


def _first_wins(same: list[Outcome]) -> list[Outcome]:
    first, *others = sorted(same, key=_rank)
    return [first, *(_repeated(one, first) for one in others)]


def _rank(outcome: Outcome) -> tuple[str, ...]:
    if isinstance(outcome, Problem):
        place = "0" if outcome.benchmark_root else "1"
        return place, outcome.text, outcome.answer or "", outcome.solution or ""
    return "2", outcome.text, outcome.reason, outcome.detail


def _repeated(outcome: Outcome, first: Outcome) -> Reject:
    if isinstance(outcome, Reject):
        return outcome
    same_text = isinstance(first, Problem) and first.text == outcome.text
    return Reject(
        problem_id=outcome.id, stage="aggregate", text=outcome.text[:2000],
        reason=Reason.EXACT_DUPLICATE if same_text else Reason.DUPLICATE_ID,
        detail=f"{outcome.source} holds {outcome.source_id} more than once",
    )  # fmt: skip
