"""Near-duplicate removal: MinHash banding for candidates, exact Jaccard similarity, a greedy pass in priority order.

A text is represented by the set of its word n-grams. Words are the tokens of the normal form of `tasks.problems.tokens`, so
that layout makes no difference; a text shorter than n words is one shingle, the tuple of all its words. Shingles are
63-bit hashes in one sparse matrix with a row per text, so that a million texts fit into memory and the exact similarity of
many pairs is one matrix operation. Connected components are not used, because they would merge a whole chain of evolved
problems into its seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tasks.problems.arrays import Indices, combine_hashes, offsets_of
from tasks.problems.minhash import signatures
from tasks.problems.tokens import Kind, Tokens, Vocabulary, tokenise

EDGE = np.dtype([("i", np.int64), ("j", np.int64), ("jaccard", np.float64)])

_TEXTS_AT_ONCE = 1000  # batch size of hashing and signatures; fits into the CPU cache
_PAIRS_AT_ONCE = 1 << 20  # batch size of candidate enumeration
_AGREEMENTS = 20 << 20  # edges are complete up to this many agreements, or up to
_AGREEMENTS_OF_A_TEXT = 40  # this many per text, whichever is larger
_SHINGLES_AT_ONCE = 1 << 23  # batch size of verification
_PERMUTATIONS = 160  # 1 in 60,000 pairs at a similarity of 0.7 has no equal key


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sketch:
    """The data about n texts that `decide` needs, in the order of the texts.

    `digests` is [n, 2]: equal rows mean the same words in the same order. `shingles` is the concatenation of each text's
    distinct shingles, sorted within a text; `counts` [n] is the number of shingles of each text; `keys` is [n, bands].
    """

    digests: NDArray[np.uint64]
    shingles: Indices
    counts: Indices
    keys: NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deduplication:
    """The result of `near_duplicates`, in indices of its input.

    `cluster_id[i]` is the kept text that removed text i, or i itself if text i was kept. `edges` is a sorted array of
    records (i, j, jaccard), i < j: every pair of distinct texts that reaches the threshold. A text that equals an earlier
    one (ignoring case and layout) has one edge, to the first copy, so that many copies need linear space.

    The edges among texts that differ only in a number or a name are quadratic in the number of texts. If there are too
    many, `whole` is False and `edges` contains only the pairs whose earlier text was kept; all else is unchanged.
    `agreements` counts the pairs of distinct texts with an equal key, once per equal key (an upper bound for the pairs
    that must be compared to find all edges); `compared` counts the pairs that were compared.
    """

    keep: NDArray[np.bool_]
    cluster_id: Indices
    edges: NDArray[np.void]
    whole: bool
    agreements: int
    compared: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Banding:
    """`bands` keys of `rows` MinHash values each. A pair is a candidate if at least one key is equal."""

    bands: int
    rows: int

    def recall(self, jaccard: float) -> float:
        """Return the probability that a pair of this similarity becomes a candidate."""
        return 1.0 - (1.0 - jaccard**self.rows) ** self.bands


def normalise(text: str) -> str:
    """Return the normal form of a text in readable form. Two texts with the same result are exact duplicates."""
    return " ".join(tokenise([text]).names()).lower()


def template_key(text: str) -> str:
    """Return `normalise(text)` with every number masked as `#`. Equal keys mean "same problem, different numbers"."""
    tokens = tokenise([text])
    numbers = (tokens.kinds == Kind.NUMBER).tolist()
    return " ".join("#" if mask else name for name, mask in zip(tokens.names(), numbers, strict=True)).lower()


def near_duplicates(
    texts: Sequence[str],
    *,
    threshold: float = 0.7,
    ngram: int = 3,
    priority: Sequence[Any] | None = None,
    seed: int = 1,
) -> Deduplication:
    """Remove near-duplicates: keep a text unless an earlier kept text has Jaccard similarity >= `threshold` with it.

    "Earlier" is by `priority` (any sortable keys, one per text, smallest first), then by index. With distinct priorities
    the kept set does not depend on the order of the input. A pair exactly at the threshold is found with a probability
    of at least 0.9999, a more similar pair with a higher one; similarities of found pairs are exact. `seed` (at least 0,
    below 2^32) selects the hash functions. Raises ValueError for an invalid `threshold`, `ngram` or `seed`, or if the
    priorities do not match the texts.
    """
    order = _priority_order(len(texts), priority)
    return decide(sketch(texts, threshold=threshold, ngram=ngram, seed=seed), order, threshold=threshold)


def decide(sketched: Sketch, order: Indices, *, threshold: float, fixed: int = 0) -> Deduplication:
    """Run `near_duplicates` on the sketch of some texts; `order` holds their indices in priority order.

    The first `fixed` texts, which must also be first in `order`, are kept unconditionally.
    """
    first_copy = _first_copies(sketched.digests, order)
    distinct = order[first_copy[order] == order]  # from here on, texts are numbered in priority order
    settled = _Pass(
        keys=sketched.keys[distinct], shingles=_sets(sketched.shingles, sketched.counts), rows=distinct,
        threshold=threshold, fixed=int(np.count_nonzero(distinct < fixed)),
    )  # fmt: skip
    earlier, later, jaccard = settled.run()
    cluster_id = np.empty(len(order), dtype=np.int64)
    cluster_id[distinct] = distinct[settled.removed_by]
    cluster_id = cluster_id[first_copy]
    cluster_id[:fixed] = np.arange(fixed)
    copies = np.flatnonzero(first_copy != np.arange(len(order)))
    edges = _edges(
        np.concatenate([distinct[earlier], first_copy[copies]]),
        np.concatenate([distinct[later], copies]),
        np.concatenate([jaccard, np.ones(len(copies))]),
    )
    return Deduplication(
        keep=cluster_id == np.arange(len(order)), cluster_id=cluster_id, edges=edges,
        whole=settled.whole, agreements=settled.agreements, compared=settled.compared,
    )  # fmt: skip


def _priority_order(count: int, priority: Sequence[Any] | None) -> Indices:
    if priority is None:
        return np.arange(count, dtype=np.int64)
    if len(priority) != count:
        raise ValueError(f"{len(priority)} priorities for {count} texts: give one per text")
    return np.array(sorted(range(count), key=priority.__getitem__), dtype=np.int64)  # stable: ties by index


def _first_copies(digests: NDArray[np.uint64], order: Indices) -> Indices:
    """Return for every text the index of the first text in `order` with the same digest."""
    ranked = digests[order]
    by_digest = np.lexsort((ranked[:, 1], ranked[:, 0]))  # stable: equal digests stay in `order`
    ranked = ranked[by_digest]
    starts = np.flatnonzero(np.append(True, (ranked[1:] != ranked[:-1]).any(axis=1))[: len(order)])
    first_copy = np.empty(len(order), dtype=np.int64)
    first_copy[order[by_digest]] = np.repeat(order[by_digest[starts]], np.diff(np.append(starts, len(order))))
    return first_copy


def _edges(a: Indices, b: Indices, jaccard: NDArray[np.float64]) -> NDArray[np.void]:
    edges = np.empty(len(a), dtype=EDGE)
    edges["i"], edges["j"], edges["jaccard"] = np.minimum(a, b), np.maximum(a, b), jaccard
    return edges[np.lexsort((edges["j"], edges["i"]))]


# --- sketches ----------------------------------------------------------------------------------------------------


def sketch(texts: Sequence[str], *, threshold: float, ngram: int, seed: int) -> Sketch:
    """Return the sketch of these texts. `joined` concatenates the sketches of several parts."""
    if not 0.0 < threshold <= 1.0 or ngram < 1:
        raise ValueError(f"threshold must be in (0, 1] and ngram at least 1, got {threshold} and {ngram}")
    banding, vocabulary = banding_for(threshold), Vocabulary()
    parts = (texts[low : low + _TEXTS_AT_ONCE] for low in range(0, max(1, len(texts)), _TEXTS_AT_ONCE))
    return joined(
        [_sketch(_Words.of(tokenise(part, vocabulary), len(part)), ngram, banding, seed) for part in parts]
    )


def _sketch(words: _Words, ngram: int, banding: Banding, seed: int) -> Sketch:
    shingles = _distinct_shingles(words, ngram)
    return Sketch(
        digests=words.digests(), shingles=shingles.indices.astype(np.int64, copy=False),
        counts=np.diff(shingles.indptr).astype(np.int64, copy=False), keys=band_keys(shingles, banding, seed),
    )  # fmt: skip


def joined(parts: list[Sketch]) -> Sketch:
    """Return the sketch of the texts of all parts (at least one), in order. Empties `parts` to save memory."""
    digests = np.concatenate([part.digests for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    keys = np.concatenate([part.keys for part in parts])
    shingles, left = np.empty(int(counts.sum()), dtype=np.int64), int(counts.sum())
    while parts:
        part = parts.pop().shingles
        shingles[left - len(part) : left] = part
        left -= len(part)
    return Sketch(digests=digests, shingles=shingles, counts=counts, keys=keys)


@dataclass(frozen=True, slots=True)
class _Words:
    """The tokens of n texts as concatenated 64-bit hashes, and the number of tokens of each text."""

    hashes: NDArray[np.uint64]
    lengths: Indices

    @classmethod
    def of(cls, tokens: Tokens, count: int) -> _Words:
        return cls(tokens.hashes(), np.bincount(tokens.rows, minlength=count))

    def digests(self) -> NDArray[np.uint64]:
        """[n, 2]: 128 bits per text; equal rows mean the same words in the same order."""
        raw, ends = self.hashes.tobytes(), (8 * offsets_of(self.lengths)).tolist()
        digests = b"".join(xxhash.xxh3_128_digest(raw[low:high]) for low, high in pairwise(ends))
        return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


def shingle_matrix(texts: Sequence[str], ngram: int) -> csr_array:
    """Return one row per text: its distinct shingles as sorted 63-bit column numbers."""
    return shingles_of(tokenise(texts), len(texts), ngram)


def shingles_of(tokens: Tokens, count: int, ngram: int) -> csr_array:
    """Return `shingle_matrix` of the `count` texts that these are the tokens of."""
    return _distinct_shingles(_Words.of(tokens, count), ngram)


def _sets(columns: Indices, counts: Indices) -> csr_array:
    ones = np.ones(len(columns), dtype=np.int8)
    return csr_array((ones, columns, offsets_of(counts)), shape=(len(counts), np.iinfo(np.int64).max))


def _distinct_shingles(words: _Words, ngram: int) -> csr_array:
    """Return one row per text: its distinct shingles as sorted column numbers."""
    counts = np.maximum(words.lengths - ngram + 1, 1)
    offsets = offsets_of(counts)
    starts = np.arange(offsets[-1]) + np.repeat(offsets_of(words.lengths)[:-1] - offsets[:-1], counts)
    sizes = np.repeat(np.minimum(words.lengths, ngram), counts)
    values = np.empty(len(starts), dtype=np.uint64)
    for size in np.unique(sizes).tolist():
        of_size = np.flatnonzero(sizes == size)
        values[of_size] = combine_hashes(
            [words.hashes[starts[of_size] + place] for place in range(size)], len(of_size)
        )
    matrix = _sets((values >> np.uint64(1)).astype(np.int64), counts)
    matrix.sum_duplicates()  # a set, not a bag
    return matrix


# --- candidates and their verification ---------------------------------------------------------------------------


def banding_for(threshold: float, recall: float = 0.9999) -> Banding:
    """Return the most selective banding of about 160 MinHash values with at least `recall` at `threshold`."""
    for rows in range(16, 0, -1):
        banding = Banding(bands=_PERMUTATIONS // rows, rows=rows)
        if banding.recall(threshold) >= recall:
            return banding
    return Banding(bands=math.ceil(math.log(1.0 - recall) / math.log(1.0 - threshold)), rows=1)


def band_keys(shingles: csr_array, banding: Banding, seed: int) -> NDArray[np.uint32]:
    """Return one 32-bit key per text and band, [n, bands]: a hash of `rows` values of the text's MinHash signature."""
    hashes = shingles.indices.astype(np.uint32)  # the low half of each 63-bit hash
    offsets = shingles.indptr.astype(np.int64, copy=False)
    values = signatures(hashes, offsets, banding.bands * banding.rows, seed).reshape(-1, banding.rows)
    combined = combine_hashes(list(values.T), len(values)) >> np.uint64(32)
    return combined.astype(np.uint32).reshape(-1, banding.bands)


def candidate_pairs(keys: NDArray[np.uint32]) -> Iterator[tuple[Indices, Indices]]:
    """Yield every pair of rows (i, j), i < j, that agrees in at least one column, exactly once, in batches."""
    for band in range(keys.shape[1]):
        order, ordered = _sorted_with_places(keys[:, band])
        for left, right in _pairs_in_runs(ordered):
            first, second = order[left], order[right]
            fresh = np.flatnonzero(~(keys[first, :band] == keys[second, :band]).any(axis=1))
            if len(fresh):
                yield first[fresh], second[fresh]


def candidate_pairs_between(
    left: NDArray[np.uint32], right: NDArray[np.uint32]
) -> Iterator[tuple[Indices, Indices]]:
    """Yield every pair (row of `left`, row of `right`) that agrees in at least one column, exactly once, in batches."""
    for band in range(left.shape[1]):
        order, ordered = _sorted_with_places(left[:, band])
        lows = np.searchsorted(ordered, right[:, band], side="left")
        counts = np.searchsorted(ordered, right[:, band], side="right") - lows
        for second, within in _unfolded(counts):
            first = order[lows[second] + within]
            fresh = np.flatnonzero(~(left[first, :band] == right[second, :band]).any(axis=1))
            if len(fresh):
                yield first[fresh], second[fresh]


def agreements(keys: NDArray[np.uint32]) -> int:
    """Count the pairs of rows that agree in a column, once per column."""
    total = 0
    for band in range(keys.shape[1]):
        ordered = np.sort(keys[:, band])
        ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(ordered))
        sizes = np.diff(ends, prepend=0)
        total += int((sizes * (sizes - 1) // 2).sum())
    return total


def _sorted_with_places(keys: NDArray[np.uint32]) -> tuple[Indices, NDArray[np.uint32]]:
    """Return a stable argsort and the sorted keys. Sorting both together is several times faster than an argsort."""
    both = np.sort((keys.astype(np.uint64) << np.uint64(32)) | np.arange(len(keys), dtype=np.uint64))
    return (both & np.uint64(0xFFFFFFFF)).astype(np.int64), (both >> np.uint64(32)).astype(np.uint32)


def _pairs_in_runs(ordered: NDArray[np.uint32]) -> Iterator[tuple[Indices, Indices]]:
    """Yield the positions (p, q), p < q, of equal values in a sorted array, in batches of about a million."""
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(ordered))
    partners = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(ordered)) - 1
    for position, within in _unfolded(partners):
        yield position, position + 1 + within


def _unfolded(counts: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Yield (i, k) for every i and every k < counts[i], in batches of about a million."""
    some = np.flatnonzero(counts)
    if len(some) == 0:
        return
    total = offsets_of(counts[some])
    cuts = np.searchsorted(total, np.arange(0, total[-1], _PAIRS_AT_ONCE)).tolist()
    for low, high in zip(cuts, [*cuts[1:], len(some)], strict=True):
        part = some[low:high]
        owner = np.repeat(part, counts[part])
        yield owner, np.arange(len(owner)) - np.repeat(offsets_of(counts[part])[:-1], counts[part])


def jaccards(shingles: csr_array, first: Indices, second: Indices) -> NDArray[np.float64]:
    """Return the exact Jaccard similarity of the rows first[k] and second[k], for every k."""
    sizes = np.diff(shingles.indptr)
    both = sizes[first] + sizes[second]
    shared = [
        np.diff((shingles[first[part]].multiply(shingles[second[part]])).indptr)
        for part in np.array_split(np.arange(len(first)), 1 + int(both.sum()) // _SHINGLES_AT_ONCE)
        if len(part)
    ]
    common = np.concatenate(shared) if shared else np.empty(0, dtype=np.int64)
    return common / (both - common)


# --- the greedy pass ---------------------------------------------------------------------------------------------

Pairs = tuple[Indices, Indices, NDArray[np.float64]]
"""(earlier, later, their Jaccard similarity)."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Pass:
    """The greedy pass over texts that are numbered in priority order; text t is row `rows[t]` of `shingles`.

    If there are few enough candidates, all of them are compared at once. Otherwise the texts are split in half: the
    earlier half is decided, texts of the later half that are near a kept one are removed, and the rest of the later half
    is decided. Each text is then compared only with kept texts and a few others of its own block. The outcome is the
    same, because removed texts do not remove others.
    """

    keys: NDArray[np.uint32]
    shingles: csr_array
    rows: Indices
    threshold: float
    fixed: int
    removed_by: Indices = field(init=False)  # the kept text that removed each text, or itself
    whole: bool = True
    agreements: int = 0
    compared: int = 0

    def run(self) -> Pairs:
        """Decide on all texts; return the verified pairs: all, or only those whose earlier text was kept."""
        self.removed_by = np.arange(len(self.keys), dtype=np.int64)
        self.agreements = agreements(self.keys)
        limit = max(_AGREEMENTS, _AGREEMENTS_OF_A_TEXT * len(self.keys))
        self.whole = self.agreements <= limit
        everything = np.arange(len(self.keys), dtype=np.int64)
        if self.whole:
            return self._settled_at_once(everything, self.keys)
        self._settle(everything, limit)
        kept, others = everything[self._stays(everything)], everything[~self._stays(everything)]
        others = np.union1d(others, everything[: self.fixed])
        candidates = candidate_pairs_between(self.keys[kept], self.keys[others])
        return self._joined(self._verified(candidates, kept, others))

    def _settle(self, block: Indices, limit: int) -> Indices:
        """Decide on the texts of a block, none of which is near an earlier kept text; return the kept ones."""
        keys = self.keys[block]
        if len(block) <= 2 or agreements(keys) <= limit:
            self._settled_at_once(block, keys)
        else:
            middle = len(block) // 2
            kept = self._settle(block[:middle], limit)
            self._settle(self._far_from(kept, block[middle:]), limit)
        return block[self._stays(block)]

    def _settled_at_once(self, block: Indices, keys: NDArray[np.uint32]) -> Pairs:
        """Compare all candidates of a block, remove texts in one pass, and return the verified pairs."""
        pairs = self._joined(self._verified(candidate_pairs(keys), block, block))
        self._remove(pairs)
        return pairs

    def _far_from(self, kept: Indices, block: Indices) -> Indices:
        """Remove the texts of a later block that are near a kept one; return the others."""
        candidates = candidate_pairs_between(self.keys[kept], self.keys[block])
        for first, second, _ in self._verified(candidates, kept, block):
            free = np.flatnonzero(second >= self.fixed)
            own = self.removed_by[second[free]] == second[free]  # not removed by an earlier batch
            self.removed_by[second[free][own]] = len(self.keys)
            np.minimum.at(self.removed_by, second[free], first[free])
        return block[self._stays(block)]

    def _remove(self, pairs: Pairs) -> None:
        """Remove texts in one pass over the pairs of a block, in the order of their later text."""
        kept = bytearray(b"\x01") * len(self.keys)
        by_later = np.lexsort((pairs[0], pairs[1]))
        for low in range(0, len(by_later), _PAIRS_AT_ONCE):
            part = by_later[low : low + _PAIRS_AT_ONCE]
            for first, second in zip(pairs[0][part].tolist(), pairs[1][part].tolist(), strict=True):
                if kept[first] and kept[second] and second >= self.fixed:
                    kept[second] = 0
                    self.removed_by[second] = first

    def _stays(self, texts: Indices) -> NDArray[np.bool_]:
        return self.removed_by[texts] == texts

    def _verified(
        self, candidates: Iterator[tuple[Indices, Indices]], left: Indices, right: Indices
    ) -> Iterator[Pairs]:
        """Yield the candidates (index pairs into `left` and `right`) whose exact Jaccard reaches the threshold."""
        sizes = np.diff(self.shingles.indptr)
        for first, second in candidates:
            first, second = left[first], right[second]
            ordered = np.flatnonzero(first < second)
            first, second = first[ordered], second[ordered]
            one, other = sizes[self.rows[first]], sizes[self.rows[second]]
            possible = np.flatnonzero(np.minimum(one, other) / np.maximum(one, other) >= self.threshold)
            first, second = first[possible], second[possible]  # Jaccard cannot exceed the ratio of the sizes
            jaccard = jaccards(self.shingles, self.rows[first], self.rows[second])
            close = np.flatnonzero(jaccard >= self.threshold)
            self.compared += len(first)
            yield first[close], second[close], jaccard[close]

    @staticmethod
    def _joined(parts: Iterator[Pairs]) -> Pairs:
        whole = list(parts) or [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))]
        first, second, jaccard = (np.concatenate(column) for column in zip(*whole, strict=True))
        return first, second, jaccard
