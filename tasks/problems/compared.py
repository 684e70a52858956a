"""What the overlap checks of decontamination need of problem texts: hashes, sets of shingles, and their information."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tasks.problems.arrays import Indices, combine_hashes, offsets_of
from tasks.problems.dedup import shingles_of
from tasks.problems.reference import reference
from tasks.problems.tokens import evidence, tokenise
from tasks.problems.wording import LETTER_HASH, NUMBER_HASH, Comparable, Wording, comparable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compared:
    """What the checks need of some texts.

    `shingles` and `templates` have one row per text: its distinct shingles, and those of its template, where each occurrence of
    a shingle is an element of its own. Element i of `templates` ends at word `ends[i]` of all templates, and is number
    `occurrences[i]` of the equal ones of its text. Equal `digests` mean equal templates, and equal `numbers` the same numbers, of
    `number_bits`. `vocabulary` holds the words of each text with their rarity in bits.
    """

    words: Comparable
    shingles: csr_array
    templates: csr_array
    ends: Indices
    occurrences: Indices
    digests: list[bytes]
    numbers: list[int]
    number_bits: NDArray[np.float64]
    vocabulary: csr_array

    @classmethod
    def of(cls, texts: Sequence[str], ngram: int) -> Compared:
        """Return the compared form of texts, with templates of `ngram` words."""
        tokens = tokenise([evidence(text) for text in texts])
        words = comparable(tokens)
        values, rows, ends, occurrences = _counted_windows(words.template, ngram)
        numbers, number_bits = words.numbers(len(texts))
        return cls(
            words=words,
            shingles=shingles_of(tokens, len(texts), ngram),
            templates=_matrix(values, rows, np.ones(len(values), dtype=np.int8), len(texts)),
            ends=ends,
            occurrences=occurrences,
            digests=_digests(words.template, len(texts)),
            numbers=numbers.tolist(),
            number_bits=number_bits,
            vocabulary=_vocabulary(words.template, len(texts)),
        )


def _matrix(columns: Indices, rows: Indices, data: NDArray[Any], count: int) -> csr_array:
    offsets = offsets_of(np.bincount(rows, minlength=count))
    return csr_array((data, columns, offsets), shape=(count, np.iinfo(np.int64).max))


def _counted_windows(words: Wording, size: int) -> tuple[Indices, Indices, Indices, Indices]:
    """Return a hash of every run of words and its number among the equal ones of its text, with row, last word, and that number.

    Sorted by row, then by hash.
    """
    starts, values = words.windows(size)
    rows = words.rows[starts]
    order = np.lexsort((values, rows))
    starts, values, rows = starts[order], values[order], rows[order]
    new = np.append(True, (np.diff(values) != 0) | (np.diff(rows) != 0))[: len(values)]
    places = np.arange(len(values))
    occurrence = places - np.maximum.accumulate(np.where(new, places, 0))
    counted = (combine_hashes([values, occurrence], len(values)) >> np.uint64(1)).astype(np.int64)
    order = np.lexsort((counted, rows))
    return counted[order], rows[order], starts[order] + size - 1, occurrence[order]


def _vocabulary(words: Wording, count: int) -> csr_array:
    """Return the distinct words of every text, numbers and letters excluded, with their rarity."""
    _, values = words.windows(1)
    rarity = reference().rarity(words)
    order = np.lexsort((values, words.rows))
    values, rows, rarity, hashes = values[order], words.rows[order], rarity[order], words.hashes[order]
    new = np.append(True, (np.diff(values) != 0) | (np.diff(rows) != 0))[: len(values)]
    new &= (hashes != NUMBER_HASH) & (hashes != LETTER_HASH)
    return _matrix(values[new], rows[new], rarity[new], count)


def _digests(words: Wording, count: int) -> list[bytes]:
    """Return 128 bits per text: equal values mean the same words up to a renaming of the letters."""
    raw = (words.hashes + words.returns.astype(np.uint64)).tobytes()
    ends = (8 * offsets_of(np.bincount(words.rows, minlength=count))).tolist()
    return [xxhash.xxh3_128_digest(raw[low:high]) for low, high in pairwise(ends)]
