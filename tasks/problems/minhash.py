"""MinHash signatures of many sets at once, bit for bit those of `datasketch.MinHash` (scheme affine32).

A set is given by 32-bit hashes of its elements. Its signature is `hashvalues` of

    one = MinHash(num_perm=num_perm, seed=seed, scheme="affine32", hashfunc=int)
    one.update_batch(hashes)

and `minhash_of` turns a signature back into such an object, which any `datasketch.MinHashLSH` accepts. An object per set
takes about a hundred times as long as its arithmetic, so many sets are computed together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from datasketch import MinHash

_SETS_AT_ONCE = 1000  # their hashes should fit into the CPU cache


def signatures(
    hashes: NDArray[np.uint32], offsets: NDArray[np.int64], num_perm: int, seed: int
) -> NDArray[np.uint32]:
    """Return the signatures of n sets, [n, num_perm]: set i has the hashes from offsets[i] to offsets[i + 1].

    The order of the hashes in a set and repetitions change nothing. As in datasketch, every value of an empty set is 2^32 - 1.
    `seed`, at least 0 and below 2^32, selects the permutations.
    """
    factors, summands = _permutations(num_perm, seed)
    values = np.full((len(offsets) - 1, num_perm), np.iinfo(np.uint32).max, dtype=np.uint32)
    filled = np.flatnonzero(np.diff(offsets))  # `reduceat` cannot reduce an empty slice
    for low in range(0, len(filled), _SETS_AT_ONCE):
        part = filled[low : low + _SETS_AT_ONCE]
        starts, end = offsets[part], offsets[part[-1] + 1]
        mixed = _mixed(hashes[starts[0] : end])
        permuted, minima = np.empty_like(mixed), np.empty((num_perm, len(part)), dtype=np.uint32)
        for place in range(num_perm):
            np.multiply(mixed, factors[place], out=permuted)  # modulo 2^32
            np.add(permuted, summands[place], out=permuted)
            np.minimum.reduceat(permuted, starts - starts[0], out=minima[place])
        values[part] = minima.T
    return values


def minhash_of(signature: NDArray[np.uint32], seed: int) -> MinHash:
    """Return the MinHash object of one signature. `seed` must be the one that the signature was made with."""
    from datasketch import MinHash

    permutations = _permutations(len(signature), seed)
    return MinHash(
        hashvalues=signature, permutations=permutations, seed=seed, scheme="affine32", hashfunc=int
    )


@lru_cache(maxsize=8)
def _permutations(num_perm: int, seed: int) -> NDArray[np.uint32]:
    """Return the factors and the summands of datasketch's permutations, [2, num_perm]."""
    from datasketch import MinHash  # takes as long to import as all of `tasks.problems`

    return np.asarray(MinHash(num_perm=num_perm, seed=seed, scheme="affine32").permutations, dtype=np.uint32)


def _mixed(hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Apply the finaliser of MurmurHash3, as datasketch does before its permutations."""
    mixed = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return mixed ^ (mixed >> np.uint32(16))
