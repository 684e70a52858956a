"""Near-duplicate removal: MinHash banding proposes, exact Jaccard decides, a greedy pass in priority order removes.

A text is the set of its word n-grams (lower-cased, split at white space; a text shorter than n words is one shingle,
the tuple of all its words). Shingles are 63-bit hashes in one sparse matrix, a row per text, so that a million texts
fit into memory and the exact similarity of many pairs is one matrix operation. No connected components anywhere: they
would fold a whole chain of evolved problems into its seed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]
from scipy.sparse import csr_array

Indices = NDArray[np.int64]
EDGE = np.dtype([("i", np.int64), ("j", np.int64), ("jaccard", np.float64)])

_NUMBER = re.compile(r"\d{1,3}(?:(?:\{,\}|,)\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
_TEXTS_AT_ONCE = 20_000  # bounds the memory of hashing and signatures
_PAIRS_AT_ONCE = 1 << 20  # of candidate enumeration
_SHINGLES_AT_ONCE = 1 << 23  # of verification
_PERMUTATIONS = 128


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deduplication:
    """What `near_duplicates` found, in indices of its input.

    `cluster_id[i]` is the kept text that removed text i, and i itself where it was kept. `edges` is an array of records
    (i, j, jaccard), i < j, sorted: every pair of distinct texts that reaches the threshold. A text that equals an earlier
    one (case and white space aside) has one edge, to the first of its kind, so that a mass of copies stays linear.
    """

    keep: NDArray[np.bool_]
    cluster_id: Indices
    edges: NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class Banding:
    """`bands` keys of `rows` MinHash values each: a pair is a candidate when any key agrees."""

    bands: int
    rows: int

    def recall(self, jaccard: float) -> float:
        """Chance that a pair of this similarity becomes a candidate."""
        return 1.0 - (1.0 - jaccard**self.rows) ** self.bands


def normalise(text: str) -> str:
    """Lower case, single spaces. Two texts with the same result are exact duplicates."""
    return " ".join(text.lower().split())


def template_key(text: str) -> str:
    """The normalised text with every number masked as `#`: equal keys mean "the same problem, renumbered"."""
    return _NUMBER.sub("#", normalise(text))


def near_duplicates(
    texts: Sequence[str],
    *,
    threshold: float = 0.7,
    ngram: int = 3,
    priority: Sequence[Any] | None = None,
    seed: int = 1,
) -> Deduplication:
    """Keep a text unless a kept one before it has Jaccard >= `threshold` with it.

    "Before" is by `priority` (any sortable keys, one per text, smaller first), then by index. With distinct priorities
    the kept set does not depend on the order of the input. A pair exactly at the threshold is found with a chance of at
    least 0.999, a more similar one with a higher chance; what is found is exact. `seed` chooses the hash functions.
    """
    if not 0.0 < threshold <= 1.0 or ngram < 1:
        raise ValueError(f"threshold must lie in (0, 1] and ngram be at least 1, got {threshold} and {ngram}")
    order = _priority_order(len(texts), priority)
    shingles, first_copy = _read(texts, order, ngram)
    distinct = order[first_copy[order] == order]  # from here on, a text is its place in priority order
    earlier, later, jaccard = verified_pairs(shingles, threshold=threshold, seed=seed)
    cluster_id = np.empty(len(texts), dtype=np.int64)
    cluster_id[distinct] = distinct[_removed_by(len(distinct), earlier, later)]
    cluster_id = cluster_id[first_copy]
    copies = np.flatnonzero(first_copy != np.arange(len(texts)))
    edges = _edges(
        np.concatenate([distinct[earlier], first_copy[copies]]),
        np.concatenate([distinct[later], copies]),
        np.concatenate([jaccard, np.ones(len(copies))]),
    )
    return Deduplication(keep=cluster_id == np.arange(len(texts)), cluster_id=cluster_id, edges=edges)


def _priority_order(count: int, priority: Sequence[Any] | None) -> Indices:
    if priority is None:
        return np.arange(count, dtype=np.int64)
    if len(priority) != count:
        raise ValueError(f"{len(priority)} priorities for {count} texts: give one per text")
    return np.array(sorted(range(count), key=priority.__getitem__), dtype=np.int64)  # stable: ties by index


def _read(texts: Sequence[str], order: Indices, ngram: int) -> tuple[csr_array, Indices]:
    """The shingles of every distinct text, in `order`, and for every text the index of the first one in `order` with the
    same words."""
    first_copy = np.empty(len(texts), dtype=np.int64)
    seen: dict[bytes, int] = {}
    parts: list[tuple[Indices, Indices]] = []
    for low in range(0, len(order), _TEXTS_AT_ONCE):
        part = order[low : low + _TEXTS_AT_ONCE]
        places: list[int] = part.tolist()
        words = _Words.of([texts[place] for place in places])
        first_copy[part] = [seen.setdefault(*text) for text in zip(words.digests(), places, strict=True)]
        parts.append(_distinct_shingles(words, np.flatnonzero(first_copy[part] == part), ngram))
    return _matrix(parts), first_copy


def _removed_by(count: int, earlier: Indices, later: Indices) -> Indices:
    """For every text (numbered in priority order) the first kept text it is too close to, or itself."""
    removed_by = np.arange(count, dtype=np.int64)
    kept = bytearray(b"\x01") * count
    by_later = np.lexsort((earlier, later))
    for low in range(0, len(by_later), _PAIRS_AT_ONCE):
        part = by_later[low : low + _PAIRS_AT_ONCE]
        for first, second in zip(earlier[part].tolist(), later[part].tolist(), strict=True):
            if kept[first] and kept[second]:
                kept[second] = 0
                removed_by[second] = first
    return removed_by


def _edges(a: Indices, b: Indices, jaccard: NDArray[np.float64]) -> NDArray[np.void]:
    edges = np.empty(len(a), dtype=EDGE)
    edges["i"], edges["j"], edges["jaccard"] = np.minimum(a, b), np.maximum(a, b), jaccard
    return edges[np.lexsort((edges["j"], edges["i"]))]


# --- shingles ----------------------------------------------------------------------------------------------------


class _WordHashes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        value = self[word] = xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))
        return value


@dataclass(frozen=True, slots=True)
class _Words:
    """The words of some texts as 64-bit hashes, one text after the other, and how many each text has."""

    hashes: NDArray[np.uint64]
    lengths: Indices

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Words:
        words = [text.lower().split() for text in texts]
        lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
        hashes = map(_WordHashes().__getitem__, chain.from_iterable(words))
        return cls(np.fromiter(hashes, dtype=np.uint64, count=int(lengths.sum())), lengths)

    def digests(self) -> Iterator[bytes]:
        """128 bits per text; equal ones mean the same words in the same order."""
        raw, ends = self.hashes.tobytes(), (8 * offsets_of(self.lengths)).tolist()
        return (xxhash.xxh3_128_digest(raw[low:high]) for low, high in pairwise(ends))


def shingle_matrix(texts: Sequence[str], ngram: int) -> csr_array:
    """A row per text, its distinct shingles as sorted 63-bit column numbers."""
    parts = []
    for low in range(0, len(texts), _TEXTS_AT_ONCE):
        words = _Words.of(texts[low : low + _TEXTS_AT_ONCE])
        parts.append(_distinct_shingles(words, np.arange(len(words.lengths)), ngram))
    return _matrix(parts)


def _matrix(parts: list[tuple[Indices, Indices]]) -> csr_array:
    """One row per text out of (columns, number of columns of each text); empties `parts`, which may be large."""
    counts = np.concatenate([part[1] for part in parts]) if parts else np.empty(0, dtype=np.int64)
    columns, done = np.empty(int(counts.sum()), dtype=np.int64), 0
    while parts:
        part, _ = parts.pop()
        done += len(part)
        columns[len(columns) - done : len(columns) - done + len(part)] = part
    return _sets(columns, counts)


def _sets(columns: Indices, counts: Indices) -> csr_array:
    ones = np.ones(len(columns), dtype=np.int8)
    return csr_array((ones, columns, offsets_of(counts)), shape=(len(counts), np.iinfo(np.int64).max))


def _distinct_shingles(words: _Words, chosen: Indices, ngram: int) -> tuple[Indices, Indices]:
    """Sorted distinct shingles of the chosen texts, one text after the other, and how many each text has."""
    lengths, firsts = words.lengths[chosen], offsets_of(words.lengths)[chosen]
    counts = np.maximum(lengths - ngram + 1, 1)
    offsets = offsets_of(counts)
    starts = np.arange(offsets[-1]) + np.repeat(firsts - offsets[:-1], counts)
    sizes = np.repeat(np.minimum(lengths, ngram), counts)
    values = np.empty(len(starts), dtype=np.uint64)
    for size in np.unique(sizes).tolist():
        of_size = np.flatnonzero(sizes == size)
        values[of_size] = combine_hashes(
            [words.hashes[starts[of_size] + place] for place in range(size)], len(of_size)
        )
    matrix = _sets((values >> np.uint64(1)).astype(np.int64), counts)
    matrix.sum_duplicates()  # a set, not a bag
    return matrix.indices.astype(np.int64, copy=False), np.diff(matrix.indptr).astype(np.int64, copy=False)


def combine_hashes(columns: Sequence[NDArray[Any]], count: int) -> NDArray[np.uint64]:
    """One hash of each row of `columns`, in which order and number matter (the finaliser is splitmix64's)."""
    value = np.full(count, len(columns), dtype=np.uint64)
    for column in columns:
        value = value * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.uint64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(31)
    return value


def offsets_of(counts: Indices) -> Indices:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])


# --- candidates and their verification ---------------------------------------------------------------------------


def banding_for(threshold: float, recall: float = 0.999) -> Banding:
    """The most selective banding of about 128 MinHash values that finds a pair at `threshold` with chance `recall`."""
    for rows in range(16, 0, -1):
        banding = Banding(bands=_PERMUTATIONS // rows, rows=rows)
        if banding.recall(threshold) >= recall:
            return banding
    return Banding(bands=math.ceil(math.log(1.0 - recall) / math.log(1.0 - threshold)), rows=1)


def verified_pairs(
    shingles: csr_array, *, threshold: float, seed: int
) -> tuple[Indices, Indices, NDArray[np.float64]]:
    """Rows (i, j), i < j, whose exact Jaccard reaches `threshold`, and that Jaccard."""
    sizes = np.diff(shingles.indptr)
    found: list[tuple[Indices, Indices, NDArray[np.float64]]] = []
    for first, second in candidate_pairs(band_keys(shingles, banding_for(threshold), seed)):
        small, large = np.minimum(sizes[first], sizes[second]), np.maximum(sizes[first], sizes[second])
        possible = np.flatnonzero(small / large >= threshold)  # Jaccard cannot exceed the ratio of the sizes
        first, second = first[possible], second[possible]
        jaccard = jaccards(shingles, first, second)
        close = np.flatnonzero(jaccard >= threshold)
        found.append((first[close], second[close], jaccard[close]))
    if not found:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    first, second, jaccard = (np.concatenate(column) for column in zip(*found, strict=True))
    return first, second, jaccard


def band_keys(shingles: csr_array, banding: Banding, seed: int) -> NDArray[np.uint32]:
    """One 32-bit key per text and band."""
    keys = np.empty((len(shingles.indptr) - 1, banding.bands), dtype=np.uint32)
    columns = shingles.indices.astype(np.uint64, copy=False)
    for low in range(0, len(keys), _TEXTS_AT_ONCE):
        offsets = shingles.indptr[low : low + _TEXTS_AT_ONCE + 1].astype(np.uint64)
        digests = RMinHash.digest_matrix_from_flat_token_hashes(
            columns[offsets[0] : offsets[-1]], offsets - offsets[0], banding.bands * banding.rows, seed
        )
        signatures = np.array(digests.to_rows(), dtype=np.uint32).reshape(-1, banding.rows)
        combined = combine_hashes(list(signatures.T), len(signatures)) >> np.uint64(32)
        keys[low : low + _TEXTS_AT_ONCE] = combined.reshape(-1, banding.bands)
    return keys


def candidate_pairs(keys: NDArray[np.uint32]) -> Iterator[tuple[Indices, Indices]]:
    """Every pair of rows (i, j), i < j, that agrees in at least one column, exactly once, in batches."""
    for band in range(keys.shape[1]):
        order, ordered = _sorted_with_places(keys[:, band])
        for left, right in _pairs_in_runs(ordered):
            first, second = order[left], order[right]
            fresh = np.flatnonzero(~(keys[first, :band] == keys[second, :band]).any(axis=1))
            if len(fresh):
                yield first[fresh], second[fresh]


def _sorted_with_places(keys: NDArray[np.uint32]) -> tuple[Indices, NDArray[np.uint32]]:
    """What a stable argsort gives, and the keys in that order; one sort of both together is several times faster."""
    both = np.sort((keys.astype(np.uint64) << np.uint64(32)) | np.arange(len(keys), dtype=np.uint64))
    return (both & np.uint64(0xFFFFFFFF)).astype(np.int64), (both >> np.uint64(32)).astype(np.uint32)


def _pairs_in_runs(ordered: NDArray[np.uint32]) -> Iterator[tuple[Indices, Indices]]:
    """Positions (p, q), p < q, of equal values in a sorted array, in batches of about a million."""
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(ordered))
    partners = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(ordered)) - 1
    positions = np.flatnonzero(partners)
    if len(positions) == 0:
        return
    partners = partners[positions]
    total = offsets_of(partners)
    cuts = np.searchsorted(total, np.arange(0, total[-1], _PAIRS_AT_ONCE)).tolist()
    for low, high in zip(cuts, [*cuts[1:], len(positions)], strict=True):
        count = partners[low:high]
        left = np.repeat(positions[low:high], count)
        yield left, left + 1 + np.arange(len(left)) - np.repeat(offsets_of(count)[:-1], count)


def jaccards(shingles: csr_array, first: Indices, second: Indices) -> NDArray[np.float64]:
    """Exact Jaccard of the rows first[k] and second[k], for every k."""
    sizes = np.diff(shingles.indptr)
    both = sizes[first] + sizes[second]
    shared = [
        np.diff((shingles[first[part]].multiply(shingles[second[part]])).indptr)
        for part in np.array_split(np.arange(len(first)), 1 + int(both.sum()) // _SHINGLES_AT_ONCE)
        if len(part)
    ]
    common = np.concatenate(shared) if shared else np.empty(0, dtype=np.int64)
    return common / (both - common)
