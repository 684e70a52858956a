"""Array helpers that the modules on problem texts share: hashes of sequences, and offsets of consecutive groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def combine_hashes(columns: Sequence[NDArray[Any]], count: int) -> Hashes:
    """Return one hash per row of `columns`, sensitive to order and count (with the finaliser of splitmix64)."""
    value = np.full(count, len(columns), dtype=np.uint64)
    for column in columns:
        value = value * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.uint64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(31)
    return value


def offsets_of(counts: Indices) -> Indices:
    """Return the positions at which consecutive groups of these sizes begin, and the end of the last one."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])
