"""Run CPU-heavy stages in processes or on a Ray cluster: shards are computed ahead of the one that the driver writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from tasks.processes.mapper import Mapper, open_mapper
from tasks.runtime.driver import Lazy, Run
from tasks.runtime.pending import Pending

WORTH_PROCESSES = 20_000  # rows; with fewer, starting processes takes longer than it saves


def cpu_mapper(run: Run, rows: Callable[[], int]) -> AbstractContextManager[Mapper[Any, Any]]:
    """Open the mapper for shards with `rows()` rows in total.

    It uses the Ray cluster at `ray.address` if set, else `run.cpu_workers` local processes, or only this process if there
    are fewer than `WORTH_PROCESSES` rows.
    """
    workers = run.config.run.cpu_workers if rows() >= WORTH_PROCESSES else 1
    return open_mapper(workers, run.config.ray.address)


def ahead(
    mapper: Lazy[Mapper[Any, Any]], function: Callable[[Any], Any], item: Callable[[int], Any], count: Callable[[], int],
    pending: Pending,
) -> Callable[[int], Any]:  # fmt: skip
    """Return a function from a shard number to `function(item(number))`.

    Results are computed ahead for the shards that are `pending`; the returned function must be called for these shards in
    order, and for no others.
    """

    @cache
    def results() -> Iterator[tuple[int, Any]]:
        left = [index for index in range(count()) if pending.is_left(index)]
        return zip(left, mapper.get()(function, map(item, left)), strict=True)

    def result(index: int) -> Any:
        return next(value for number, value in results() if number == index)

    return result
