"""CPU-heavy stages over processes or a Ray cluster: shards are worked on ahead of the one that the driver writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from tasks.io.mapper import Mapper, open_mapper
from tasks.stages.driver import Lazy, Run
from tasks.stages.pending import Pending

WORTH_PROCESSES = 20_000  # rows; with fewer, starting processes takes longer than they save


def cpu_mapper(run: Run, rows: Callable[[], int]) -> AbstractContextManager[Mapper[Any, Any]]:
    """Where the shards of so many rows are worked on: on the Ray cluster at `ray.address`, else in `run.cpu_workers`
    processes of this machine, or in this one where there is little to do."""
    workers = run.config.run.cpu_workers if rows() >= WORTH_PROCESSES else 1
    return open_mapper(workers, run.config.ray.address)


def ahead(
    mapper: Lazy[Mapper[Any, Any]], function: Callable[[Any], Any], item: Callable[[int], Any], count: Callable[[], int],
    pending: Pending,
) -> Callable[[int], Any]:  # fmt: skip
    """A function from the number of a shard to `function(item(number))`, to be asked for the shards that are `pending` in
    their order; others are left out."""

    @cache
    def results() -> Iterator[tuple[int, Any]]:
        left = [index for index in range(count()) if pending.is_left(index)]
        return zip(left, mapper.get()(function, map(item, left)), strict=True)

    def result(index: int) -> Any:
        return next(value for number, value in results() if number == index)

    return result
