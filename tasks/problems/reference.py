"""How much information the words of a problem carry: stock phrases little, the story of a problem much.

The information of a word, in bits, is -log2 of its probability after the words before it, up to four of them. Probabilities are
ratios of the numbers of reference problems (the training sets of GSM8K and MATH) with an n-gram and with its beginning.
Where an n-gram is in too few of them, the next shorter one counts, below three words with a penalty (stupid back-off: Brants et
al. 2007). Words are those of templates: numbers and letters are masked. `reference_ngrams.npz` holds hashes and counts, made
by scripts/reference_ngrams.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.problems.arrays import Indices
from tasks.problems.tokens import evidence, tokenise
from tasks.problems.wording import Wording, comparable

LONGEST = 5  # words of the longest n-gram
_TRUSTED = 3  # a shorter n-gram costs more bits
_BACKOFF = np.log2(1 / 0.4)  # for each word that is missing
_MOST_BITS = 12.0  # of one word: rare names and misspellings are no better evidence than other rare words
_PATH = Path(__file__).with_name("reference_ngrams.npz")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """The number of reference texts, and for n = 1 to 5 the sorted hashes of frequent n-grams with their document
    frequencies. Hashes are the lower 32 bits of those of `Wording.windows`."""

    texts: int
    hashes: tuple[NDArray[np.uint32], ...]
    counts: tuple[NDArray[np.uint16], ...]

    @classmethod
    def of(cls, texts: Sequence[str], *, at_least: int) -> Reference:
        """Count the n-grams of the templates of these texts; keep those in at least this many."""
        words = comparable(tokenise(map(evidence, texts))).template
        tables = []
        for size in range(1, LONGEST + 1):
            starts, values = words.windows(size)
            once = np.unique(np.stack([_short(values), words.rows[starts]], axis=1), axis=0)[:, 0]
            hashes, counts = np.unique(once, return_counts=True)
            tables.append((hashes[counts >= at_least], counts[counts >= at_least]))
        hashes, counts = zip(*tables, strict=True)
        return cls(
            texts=len(texts),
            hashes=tuple(one.astype(np.uint32) for one in hashes),
            counts=tuple(np.minimum(one, np.iinfo(np.uint16).max).astype(np.uint16) for one in counts),
        )

    def save(self, path: Path = _PATH) -> None:
        tables: dict[str, Any] = {
            f"{name}{size}": table
            for name, tables in (("hashes", self.hashes), ("counts", self.counts))
            for size, table in enumerate(tables, 1)
        }
        np.savez_compressed(path, allow_pickle=False, texts=np.array(self.texts), **tables)

    @classmethod
    def load(cls, path: Path = _PATH) -> Reference:
        with np.load(path) as tables:
            sizes = range(1, LONGEST + 1)
            return cls(
                texts=int(tables["texts"]),
                hashes=tuple(tables[f"hashes{size}"] for size in sizes),
                counts=tuple(tables[f"counts{size}"] for size in sizes),
            )

    def information(self, words: Wording, context: int = LONGEST) -> NDArray[np.float64]:
        """Return the bits of every word of some templates, given up to `context` - 1 words before it in its text."""
        bits = np.full(len(words.hashes), np.log2(max(1, self.texts)) + _TRUSTED * _BACKOFF)
        before = np.full(len(words.hashes), self.texts)
        for size in range(1, min(context, LONGEST) + 1):
            frequency = self.frequencies(words, size)
            known = np.flatnonzero(frequency)
            ratio = np.log2(np.maximum(before[known] / frequency[known], 1.0))
            bits[known] = ratio + max(0, _TRUSTED - size) * _BACKOFF
            before = np.roll(frequency, 1)
        return np.minimum(bits, _MOST_BITS).astype(np.float64)

    def rarity(self, words: Wording) -> NDArray[np.float64]:
        """Return the bits of every word of some templates by itself."""
        return np.minimum(np.log2(self.texts / np.maximum(self.frequencies(words, 1), 0.5)), _MOST_BITS)

    def frequencies(self, words: Wording, size: int) -> Indices:
        """Return the number of reference texts with the run of `size` words (at most 5) that ends at each word, 0 if few."""
        size = min(size, LONGEST)
        starts, values = words.windows(size)
        found = np.zeros(len(words.hashes), dtype=np.int64)
        hashes, counts = self.hashes[size - 1], self.counts[size - 1]
        if len(hashes):
            short = _short(values).astype(np.uint32)
            places = np.minimum(np.searchsorted(hashes, short), len(hashes) - 1)
            found[starts + size - 1] = np.where(hashes[places] == short, counts[places], 0)
        return found


@cache
def reference() -> Reference:
    """Return the reference that is part of the package."""
    return Reference.load()


def _short(values: Indices) -> Indices:
    return values & np.iinfo(np.uint32).max
