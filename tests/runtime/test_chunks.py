"""Rows are cut by their content: every row is in one shard, no shard is too large, and a change moves only nearby cuts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.runtime.chunks import chunk, cut, row_hashes


def ends(rows: Sequence[str], size: int) -> set[str]:
    """The last row of every shard except for the last shard."""
    return {rows[end - 1] for end in list(accumulate(cut(row_hashes(rows), size)))[:-1]}


@given(st.lists(st.text(max_size=3), max_size=60), st.integers(1, 20))
def test_every_row_is_in_one_shard_and_no_shard_is_too_large(rows: list[str], size: int) -> None:
    sizes = cut(row_hashes(rows), size)
    assert [row for index in range(len(sizes)) for row in chunk(rows, sizes, index)] == rows
    assert all(4 * one >= 3 * size for one in sizes[:-1]) and max(sizes) <= size
    assert len(sizes) == 1 or all(sizes)


def test_a_shard_ends_after_the_smallest_mark_of_its_last_quarter() -> None:
    rows = [f"row {number}" for number in range(1000)]
    hashes, start = row_hashes(rows).tolist(), 0
    for size in cut(row_hashes(rows), 100)[:-1]:
        assert hashes[start + size - 1] == min(hashes[start + 74 : start + 100])
        start += size


@pytest.mark.parametrize("place", [0, 3333, 9_999])
@pytest.mark.parametrize("change", ["removed", "added", "changed"])
def test_a_change_affects_only_nearby_shards(place: int, change: str) -> None:
    rows = [f"row {number}" for number in range(10_000)]
    new = {"removed": [], "added": ["one", "more", rows[place]], "changed": ["other"]}[change]
    before, after = ends(rows, 100), ends([*rows[:place], *new, *rows[place + 1 :]], 100)
    assert len(before) > 100 and len(before - after) <= 2 and len(after - before) <= 2


def test_after_a_thousand_inserted_rows_the_cuts_coincide_again() -> None:
    rows = [f"row {number}" for number in range(10_000)]
    more = [*rows[:5000], *(f"new {number}" for number in range(1037)), *rows[5000:]]
    before, after = ends(rows, 100), ends(more, 100)
    assert len(before - after) < 15
