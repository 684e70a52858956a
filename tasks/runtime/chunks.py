"""Cut rows into shards by their content, so that adding or removing a row changes only the shards around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from tasks.storage.artifacts import Artifact, Store
from tasks.storage.tables import read_rows

Row = TypeVar("Row")
RowHashes = NDArray[np.uint64]


def row_hashes(keys: Iterable[str]) -> RowHashes:
    """Return a 64-bit hash of the key of every row."""
    hashes = (xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) for key in keys)
    return np.fromiter(hashes, dtype=np.uint64)


def cut(rows: RowHashes, size: int) -> tuple[int, ...]:
    """Return the sizes of the shards of rows with these marks: at most `size`, and at least 3/4 of it except for the last.

    A shard ends after the row with the smallest mark in its last quarter (content-defined chunking). After added or removed
    rows, the cuts coincide with the old ones again as soon as two quarters share their smallest mark, which is usually the
    next cut. Without rows there is one empty shard, so that the artifact exists.

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
    """Return the rows of chunk `index` of a sequence that is cut into chunks of these sizes."""
    start, stop = bounds(sizes, index)
    return rows[start:stop]


def bounds(sizes: Sequence[int], index: int) -> tuple[int, int]:
    """Return the start and the end (exclusive) of chunk `index`."""
    ends = [0, *accumulate(sizes)]
    return ends[index], ends[index + 1]


def overlaps(counts: Sequence[int], start: int, stop: int) -> list[tuple[int, int, int]]:
    """Locate rows start..stop-1 of a sequence that is stored in parts of `counts` rows.

    Returns (part, first row, last row + 1) for every part that contains any of them, with rows relative to the part.

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
    """Read the rows of one table of a shard."""
    return read_rows(store.shard_path(artifact, index, table), row_type)


def shard_sizes(store: Store, artifact: Artifact) -> tuple[int, ...]:
    """Return the number of kept rows of every shard of a finished artifact."""
    return tuple(
        (store.finished_shard(artifact.path, index) or {})["counts"]["kept"]
        for index in range(store.record(artifact)["num_shards"])
    )
