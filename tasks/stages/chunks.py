"""How rows are cut into shards: by their content, so that one more or less changes the shards around it and no others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from tasks.io.artifacts import Artifact, Store
from tasks.io.tables import read_rows

Row = TypeVar("Row")
Marks = NDArray[np.uint64]


def marks(keys: Iterable[str]) -> Marks:
    """A 64-bit hash of the key of every row."""
    hashes = (xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) for key in keys)
    return np.fromiter(hashes, dtype=np.uint64)


def cut(rows: Marks, size: int) -> tuple[int, ...]:
    """Sizes of the shards of rows with these marks: at most `size` rows each, at least three quarters of that but for the last.

    A shard ends after the row of the least mark in its last quarter (content-defined chunking). Where rows are added or go,
    the cuts after them fall on the same rows again as soon as two quarters share their least mark: mostly at once. No rows
    make one empty shard, so that an artifact comes to be.

    >>> cut(marks("abcdefghij"), 4)
    (4, 4, 2)
    """
    least, start = size - size // 4, 0
    sizes: list[int] = []
    while len(rows) - start > size:
        ends = rows[start + least - 1 : start + size]
        sizes.append(least + int(ends.argmin()))
        start += sizes[-1]
    return (*sizes, len(rows) - start)


def chunk(rows: Sequence[Row], sizes: Sequence[int], index: int) -> Sequence[Row]:
    """Rows of chunk `index` of a sequence that is cut into chunks of these sizes."""
    start, stop = bounds(sizes, index)
    return rows[start:stop]


def bounds(sizes: Sequence[int], index: int) -> tuple[int, int]:
    """Where chunk `index` begins and ends."""
    ends = [0, *accumulate(sizes)]
    return ends[index], ends[index + 1]


def overlaps(counts: Sequence[int], start: int, stop: int) -> list[tuple[int, int, int]]:
    """Where rows start..stop-1 of a sequence lie that comes in parts of `counts` rows: (part, its first row, its last row + 1).

    >>> overlaps([2, 3], 1, 4)
    [(0, 1, 2), (1, 0, 2)]
    """
    found, first = [], 0
    for part, count in enumerate(counts):
        low, high = max(0, start - first), min(count, stop - first)
        if low < high:
            found.append((part, low, high))
        first += count
    return found


def shard_rows(store: Store, artifact: Artifact, index: int, table: str, row_type: type[Row]) -> list[Row]:
    """Rows of one shard's table."""
    return read_rows(store.shard_path(artifact, index, table), row_type)


def shard_sizes(store: Store, artifact: Artifact) -> tuple[int, ...]:
    """Kept rows of every shard of a finished artifact."""
    return tuple(
        (store.finished_shard(artifact.path, index) or {})["counts"]["kept"]
        for index in range(store.record(artifact)["num_shards"])
    )
