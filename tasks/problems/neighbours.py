"""The benchmark problems whose templates are most similar to that of a text: candidates for a check by a model. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from tasks.problems.arrays import Indices
from tasks.problems.compared import Compared

_ROWS_AT_ONCE = 500  # bounds the memory use


def nearest(
    texts: Sequence[str], against: Sequence[str], *, count: int, threshold: float, ngram: int
) -> list[list[tuple[int, float]]]:
    """Return for each text at most `count` pairs (index into `against`, similarity), the most similar first, then in the order of
    `against`.

    The similarity is that of the check *template*: the Jaccard similarity of the n-grams of words after masking numbers and
    letters. It is at least `threshold`.
    """
    if not texts or not against:
        return [[] for _ in texts]
    own, other = Compared.of(texts, ngram).templates, Compared.of(against, ngram).templates
    columns = np.intersect1d(own.indices, other.indices).astype(np.int64)
    sizes, other_sizes = np.diff(own.indptr), np.diff(other.indptr)
    own, transposed = _narrow(own, columns), csr_array(_narrow(other, columns).T)
    found: list[list[tuple[int, float]]] = []
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        shared = csr_array(own[start : start + _ROWS_AT_ONCE] @ transposed)
        for row, (low, high) in enumerate(zip(shared.indptr[:-1], shared.indptr[1:], strict=True), start):
            places, both = shared.indices[low:high], shared.data[low:high]
            similarity = both / (sizes[row] + other_sizes[places] - both)
            order = np.lexsort((places, -similarity))[:count]
            pairs = zip(places[order].tolist(), similarity[order].tolist(), strict=True)
            found.append([(place, value) for place, value in pairs if value >= threshold])
    return found


def _narrow(matrix: csr_array, columns: Indices) -> csr_array:
    """Return a matrix of ones with only these columns, which are sorted."""
    sizes = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    places = np.searchsorted(columns, matrix.indices)
    kept = columns[np.minimum(places, len(columns) - 1)] == matrix.indices if len(columns) else places < 0
    ones = np.ones(int(kept.sum()), dtype=np.int64)
    return csr_array((ones, (rows[kept], places[kept])), shape=(len(sizes), len(columns)))
