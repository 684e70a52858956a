"""Signatures: equal to datasketch's bit for bit, usable in its index, and as good as independent permutations."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import cast

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from datasketch.hashfunc import sha1_hash32
from numpy.typing import NDArray

from tasks.problems import minhash
from tasks.problems.arrays import offsets_of
from tasks.problems.dedup import band_keys, banding_for, candidate_pairs, shingle_matrix
from tasks.problems.minhash import minhash_of, signatures

Sets = list[list[int]]


def signatures_of(sets: Sets, num_perm: int = 128, seed: int = 1) -> NDArray[np.uint32]:
    hashes = np.array([value for one in sets for value in one], dtype=np.uint32)
    return signatures(hashes, offsets_of(np.array([len(one) for one in sets])), num_perm, seed)


def random_sets(seed: int, count: int = 60) -> Sets:
    """Return sets of 0 to 200 hashes; the extreme values occur, and so do repetitions."""
    rng = random.Random(seed)
    sets = [rng.choices([0, 1, 2**31, 2**32 - 1, rng.getrandbits(32)], k=3) for _ in range(5)]
    sets += [[rng.getrandbits(32) for _ in range(rng.randrange(200))] for _ in range(count)]
    return [[], *sets, [], [], [7], []]


def word_triples(text: str) -> list[bytes]:
    words = text.lower().split()
    return [" ".join(words[place : place + 3]).encode() for place in range(max(1, len(words) - 2))]


def sentences(seed: int) -> list[str]:
    """Return 80 texts of 30 words, each followed by a copy with two words replaced."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(80):
        words = [f"w{rng.randrange(400)}" for _ in range(30)]
        texts.append(" ".join(words))
        words[rng.randrange(30)] = words[rng.randrange(30)] = "other"
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("num_perm", [1, 126, 128, 200])
def test_every_row_equals_the_hashvalues_of_datasketch(num_perm: int, seed: int) -> None:
    sets = random_sets(num_perm)
    found = signatures_of(sets, num_perm, seed)
    assert found.dtype == np.uint32 and found.shape == (len(sets), num_perm)
    for row, one in zip(found, sets, strict=True):
        theirs = MinHash(num_perm=num_perm, seed=seed, scheme="affine32", hashfunc=int)
        theirs.update_batch(one)
        assert theirs.hashvalues.dtype == row.dtype and theirs.hashvalues.tolist() == row.tolist()


def test_with_its_hash_function_rows_equal_objects_at_datasketch_s_defaults() -> None:
    texts = sentences(seed=0)
    found = signatures_of([[sha1_hash32(triple) for triple in word_triples(text)] for text in texts])
    theirs = MinHash.bulk(map(word_triples, texts))
    assert found.tolist() == [one.hashvalues.tolist() for one in theirs]


def test_blocks_and_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = random_sets(seed=3)
    whole = signatures_of(sets)
    monkeypatch.setattr(minhash, "_SETS_AT_ONCE", 7)
    assert signatures_of(sets).tolist() == whole.tolist()
    hashes = np.array([value for one in sets for value in one], dtype=np.uint32)
    offsets = offsets_of(np.array([len(one) for one in sets]))
    assert signatures(hashes, offsets[10:31], 128, 1).tolist() == whole[10:30].tolist()
    assert signatures_of([]).shape == (0, 128)


def test_rows_and_objects_of_datasketch_share_one_index() -> None:
    texts = sentences(seed=1)
    hashes = [[sha1_hash32(triple) for triple in word_triples(text)] for text in texts]
    rows, objects = signatures_of(hashes), MinHash.bulk(map(word_triples, texts))
    index = MinHashLSH(num_perm=128, params=(32, 4))
    for number, row in enumerate(rows):
        index.insert(number, minhash_of(row, seed=1))
    reference = MinHashLSH(num_perm=128, params=(32, 4))
    for number, one in enumerate(objects):
        reference.insert(number, one)
    for number, (row, one) in enumerate(zip(rows, objects, strict=True)):
        found = set(index.query(one))
        assert found == set(reference.query(one)) == set(reference.query(minhash_of(row, seed=1)))
        assert {number, number ^ 1} <= found  # itself and its copy


def test_an_object_made_from_a_row_goes_on_like_datasketch_s_own() -> None:
    first, second = [1, 2, 3, 4], [3, 4, 5]
    rows = signatures_of([first, second, first + second], seed=9)
    one, other, both = (minhash_of(row, seed=9) for row in rows)
    own = MinHash(num_perm=128, seed=9, hashfunc=int)
    own.update_batch(first)
    assert one == own and one.jaccard(other) == float((rows[0] == rows[1]).mean())
    assert MinHash.union(one, other) == both
    one.update_batch(second)
    assert one == both and rows[0].tolist() == own.hashvalues.tolist()  # the row itself is unchanged


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_candidates_of_deduplication_are_those_of_datasketch_s_index(threshold: float) -> None:
    shingles, banding = shingle_matrix(sentences(seed=2), 3), banding_for(threshold)
    num_perm = banding.bands * banding.rows
    index = MinHashLSH(num_perm=num_perm, params=(banding.bands, banding.rows))
    objects = []
    for number, (low, high) in enumerate(pairwise(shingles.indptr)):
        one = MinHash(num_perm=num_perm, seed=4, hashfunc=lambda shingle: int(shingle) % 2**32)
        one.update_batch(shingles.indices[low:high])
        index.insert(number, one)
        objects.append(one)
    expected = {
        (number, other)
        for number, one in enumerate(objects)
        for other in cast("list[int]", index.query(one))
        if other > number
    }
    batches = candidate_pairs(band_keys(shingles, banding, seed=4))
    found = [pair for batch in batches for pair in zip(*(side.tolist() for side in batch), strict=True)]
    assert len(expected) > 30 and sorted(found) == sorted(expected)


@pytest.mark.parametrize("size", [20, 60, 100])
def test_pairs_at_the_threshold_become_candidates(size: int) -> None:
    # 3,000 pairs of sets with 7 in 10 elements in common: independent permutations miss 0.05 pairs on average
    shared, own, banding = 7 * size // 10, 3 * size // 20, banding_for(0.7)
    hashes = np.random.default_rng(size).integers(2**32, size=(3000, shared + 2 * own), dtype=np.uint32)
    halves = np.stack([hashes[:, : shared + own], hashes[:, own:]], axis=1).reshape(-1)
    rows = signatures(halves, offsets_of(np.full(6000, shared + own)), banding.bands * banding.rows, 1)
    rows = rows.reshape(3000, 2, banding.bands, banding.rows)
    agree = (rows[:, 0] == rows[:, 1]).all(axis=2)
    assert agree.any(axis=1).all()
    assert agree.mean() == pytest.approx(0.7**banding.rows, abs=0.006)  # standard error 0.0012
