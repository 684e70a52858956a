"""The lineage: records that are kept or written again, ancestors and descendants, and the outline."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.storage.lineage import FOLDER, Kind, Maker, Product, missing, outline, products, record, related

SEEDS = Product(kind=Kind.SEEDS, digest="5" * 64, folder="artifacts/aggregate-5", facts={"problems": "40"})
DATASET = Product(
    kind=Kind.DATASET, digest="d" * 64, folder="dataset", made_from=(SEEDS.key,), finished_at="2026-11-01"
)
STUDENT = Product(kind=Kind.STUDENT, digest="0" * 16, folder="distill/a", made_from=(DATASET.key,))
GRADES = Product(
    kind=Kind.EVALUATION, digest="e" * 32, folder="grades", name="aime/avg16", made_from=(STUDENT.key,)
)
RELEASE = Product(kind=Kind.RELEASE, digest="f" * 64, folder="release", made_from=(STUDENT.key, GRADES.key))
CHAIN = [SEEDS, DATASET, STUDENT, GRADES, RELEASE]


def test_records_are_read_in_the_order_of_the_chain(tmp_path: Path) -> None:
    for one in reversed(CHAIN):
        assert record(tmp_path, one)
    assert list(products(tmp_path).values()) == CHAIN


def test_a_product_that_is_found_again_keeps_the_run_that_made_it(tmp_path: Path) -> None:
    first = replace(DATASET, maker=Maker(flow="sure-math", run="pocket build", run_id="1"))
    assert record(tmp_path, first)
    before = (tmp_path / FOLDER / first.file).read_bytes()
    again = replace(DATASET, maker=Maker(run="second"), finished_at="2026-12-01", software="2")
    assert not record(tmp_path, again)
    assert (tmp_path / FOLDER / first.file).read_bytes() == before
    assert record(tmp_path, replace(again, facts={"state": "sent"}))
    assert products(tmp_path)[DATASET.key].maker.run == "second"


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"kind": "dataset"}', b"\xff", b"[1]"])
def test_a_damaged_record_counts_as_absent_and_is_written_again(tmp_path: Path, damage: bytes) -> None:
    record(tmp_path, DATASET)
    (tmp_path / FOLDER / DATASET.file).write_bytes(damage)
    assert products(tmp_path) == {}
    assert record(tmp_path, DATASET) and products(tmp_path) == {DATASET.key: DATASET}


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    record(tmp_path, DATASET)
    path = tmp_path / FOLDER / DATASET.file
    path.write_text(path.read_text().replace('"dataset",', '"dataset2",'))
    assert products(tmp_path) == {}


def test_related_products_are_those_of_the_transitive_closure() -> None:
    rng = random.Random(7)
    for _ in range(50):
        names = [f"{number:02d}" for number in range(12)]
        known = {}
        for number, name in enumerate(names):
            parents = tuple(f"dataset:{other}" for other in names[:number] if rng.random() < 0.2)
            one = replace(DATASET, digest=name, made_from=parents)
            known[one.key] = one
        start = f"dataset:{rng.choice(names)}"
        reaches = {key: {key} for key in known}  # ancestors, by repeated squaring of the relation
        for _ in names:
            for key, one in known.items():
                reaches[key] |= {above for parent in one.made_from for above in reaches[parent]}
        expected = [key for key in known if key in reaches[start] or start in reaches[key]]
        assert list(related(known, [start])) == expected


def test_what_is_made_from_something_else_is_not_related() -> None:
    other = replace(STUDENT, digest="1" * 16)
    known = {one.key: one for one in [*CHAIN, other]}
    assert list(related(known, [GRADES.key])) == [one.key for one in CHAIN]
    assert related(known, ["student:unknown"]) == {}


def test_the_outline_puts_a_product_below_the_last_one_that_it_was_made_from() -> None:
    known = {one.key: one for one in CHAIN}
    assert outline(known) == list(enumerate(CHAIN))
    candidate = replace(RELEASE, digest="a", made_from=(DATASET.key,))
    found = outline({**known, candidate.key: candidate})
    assert [(depth, one.digest[0]) for depth, one in found] == [
        (0, "5"), (1, "d"), (2, "0"), (3, "e"), (4, "f"), (2, "a"),
    ]  # fmt: skip
    assert missing(STUDENT, {}) == ["made from dataset dddddddddddd (recorded elsewhere)"]
