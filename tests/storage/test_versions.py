"""A new version shares every unchanged file, and the old version is not modified."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from tasks.errors import UserError
from tasks.rows import Example, Response
from tasks.storage import dataset, versions
from tasks.storage.artifacts import digest
from tasks.storage.checksums import checksum
from tasks.storage.dataset import read_dataset, write_dataset
from tasks.storage.manifest import read_manifest
from tasks.storage.versions import Changes, latest, share, write_version
from tests.storage.test_dataset import example, manifest, samples

ROWS = 4  # per file


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", ROWS)
    monkeypatch.setattr(versions, "ROWS_PER_FILE", ROWS)
    yield


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A dataset of 11 training problems, of which problem 9 is flagged and the others are in files of 4, 4 and 2 rows, and one
    test problem, with 2 responses each."""
    train = [example(number, benchmark_overlap=number == 9) for number in range(11)]
    test = [example(20, curated=True)]
    responses = {"train": [r for row in train for r in samples(row)], "test": samples(test[0])}
    write_dataset(tmp_path / "old", {"train": train, "test": test}, responses, manifest())
    return tmp_path / "old"


def version(old: Path, changes: Changes) -> tuple[Path, versions.Shared]:
    place = old.with_name("new")
    place.mkdir()
    shared = write_version(place, old, changes, replace(read_manifest(old), fingerprint="f" * 64))
    return place, shared


def row_of(folder: Path, number: int) -> Example:
    return next(row for row in read_dataset(folder)[0] if row.id == f"{number:032x}")


def inodes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_ino for path in sorted(folder.rglob("*.parquet"))}


def texts(rows: list[Response]) -> list[str]:
    return [row.text for row in rows]


def test_an_updated_row_rewrites_its_two_files_and_shares_all_others(old: Path) -> None:
    before = digest(old)
    row = replace(row_of(old, 5), weight=0.125)
    answers = [replace(one, text="again") for one in samples(row)]
    new, shared = version(old, Changes(updated={row.id: row}, responses={row.id: answers}))
    ours, theirs = inodes(new), inodes(old)
    assert list(ours) == list(theirs)
    changed = {name for name in ours if ours[name] != theirs[name]}
    assert changed == {"data/train-00001-of-00003.parquet", "responses/train-00002-of-00006.parquet"}
    assert (shared.shared, shared.written) == (len(ours) - 2, 2)
    rows, responses = read_dataset(new)
    olds, old_responses = read_dataset(old)
    assert [one if one.id != row.id else row for one in olds] == rows
    assert texts([one for one in responses if one.problem_id == row.id]) == ["again"] * 2
    assert [one for one in responses if one.problem_id != row.id] == [
        one for one in old_responses if one.problem_id != row.id
    ]
    assert digest(old) == before


def test_a_row_that_was_only_reclustered_shares_all_response_files(old: Path) -> None:
    rows = {row.id: replace(row, weight=0.5) for row in read_dataset(old)[0]}
    new, shared = version(old, Changes(updated=rows))
    ours, theirs = inodes(new), inodes(old)
    assert {name for name in ours if ours[name] == theirs[name]} == {
        n for n in ours if n.startswith("responses/")
    }
    assert shared.shared == sum(name.startswith("responses/") for name in ours)


def test_added_rows_are_written_to_new_files_and_the_old_files_are_renamed(old: Path) -> None:
    added = [example(30), example(31), example(32, benchmark_overlap=True)]
    answers = {row.id: samples(row) for row in added}
    new, shared = version(old, Changes(added={"train": added}, responses=answers))
    ours, theirs = inodes(new), inodes(old)
    assert (
        shared.shared == len(theirs) and shared.written == 4
    )  # data, flagged, and 6 responses in files of 4
    assert ours["data/train-00002-of-00004.parquet"] == theirs["data/train-00002-of-00003.parquet"]
    assert {
        "data/train-00003-of-00004.parquet",
        "flagged/train-00001-of-00002.parquet",
    } <= ours.keys() - theirs.keys()
    opened: Any = load_dataset(str(new), cache_dir=str(old.with_name("cache")))
    assert len(opened["train"]) == 14 and len(opened["test"]) == 1
    contents = read_manifest(new).contents
    assert contents is not None
    assert {row.split: (row.problems, row.decontaminated, row.responses) for row in contents.splits} == {
        "train": (14, 12, 28), "test": (1, 1, 2),
    }  # fmt: skip


def test_a_file_without_remaining_rows_is_omitted_and_the_others_are_renumbered(old: Path) -> None:
    removed = frozenset(f"{number:032x}" for number in (0, 1, 2, 3))
    new, shared = version(old, Changes(removed=removed))
    ours, theirs = inodes(new), inodes(old)
    assert ours["data/train-00000-of-00002.parquet"] == theirs["data/train-00001-of-00003.parquet"]
    assert shared.written == 0 and shared.shared == len(theirs) - 3
    rows, responses = read_dataset(new)
    assert not removed & {row.id for row in rows} and not removed & {row.problem_id for row in responses}


def test_responses_that_straddle_two_files_are_replaced_once(tmp_path: Path) -> None:
    rows = [
        example(0, num_samples=3, cluster_labels=(0, 1, 0)),
        example(1, num_samples=3, cluster_labels=(0, 1, 0)),
    ]
    responses = [response for row in rows for response in samples(row)]
    write_dataset(tmp_path / "old", {"train": rows}, {"train": responses}, manifest())
    again = [replace(one, text="again") for one in samples(rows[1])]
    new, shared = version(
        tmp_path / "old", Changes(updated={rows[1].id: rows[1]}, responses={rows[1].id: again})
    )
    assert texts(read_dataset(new)[1]) == [*texts(samples(rows[0])), "again", "again", "again"]
    assert shared.shared == 0


def test_without_hard_links_a_shared_file_is_an_identical_copy(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    new, shared = version(old, Changes(removed=frozenset({f"{20:032x}"})))
    assert shared.written == 0
    pairs = [(new / name, old / name) for name in inodes(new)]
    assert all(one.read_bytes() == other.read_bytes() and not one.samefile(other) for one, other in pairs)
    monkeypatch.setattr(versions.shutil, "copyfile", lambda _source, path: path.write_bytes(b"torn"))
    with pytest.raises(UserError, match=r"differs from .*: check the disk"):
        share(old / "manifest.json", new / "copy")


def test_latest_json_points_to_the_newest_version(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"contains no finished dataset .*build one first"):
        latest(tmp_path)
    (tmp_path / "latest.json").write_text(
        '{"dataset": "versions/a/dataset", "report": "/elsewhere/report.html"}'
    )
    found = latest(tmp_path)
    assert found["dataset"] == str(tmp_path / "versions/a/dataset")  # relative to the current output folder
    assert found["report"] == "/elsewhere/report.html"  # absolute paths, as in older files
    (tmp_path / "latest.json").write_text("[]")
    with pytest.raises(UserError, match="contains no finished dataset"):
        latest(tmp_path)


def test_files_without_the_columns_of_today_are_written_again(old: Path) -> None:
    manifest_path = old / "manifest.json"
    record = json.loads(manifest_path.read_text(encoding="utf-8"))
    for path in (old / "data").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["solution"]), path)
        record["files"][f"data/{path.name}"] = checksum(path)
    manifest_path.write_text(replace(read_manifest(old), files=record["files"]).to_json(), encoding="utf-8")
    before = read_dataset(old)
    changed = replace(row_of(old, 1), solution="We count.")
    new, shared = version(old, Changes(updated={changed.id: changed}))
    assert shared.written == 4  # all of data/: 3 of train and 1 of test
    assert {row.id: row for row in read_dataset(new)[0]} == {
        row.id: changed if row.id == changed.id else row for row in before[0]
    }
    assert load_dataset(str(new), split="train")["solution"].count("We count.") == 1


def test_a_dataset_of_an_earlier_version_gets_a_new_version_in_the_format_of_today(old: Path) -> None:
    path = old / "manifest.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    for name in ("format", "checksum", "files", "batch_invariance"):  # as in format 1
        del record[name]
    earlier = {"checks": ["ngram", "jaccard"], "gram_words": 13, "gram_share": 0.9, "common_grams": 2}
    record["settings"] |= {"decontam": earlier}
    record["benchmarks"] = [{"benchmark": "exam", "problems": 7, "flagged": 1, "kinds": {"lineage": 1}}]
    path.write_text(json.dumps(record), encoding="utf-8")
    row = replace(row_of(old, 5), weight=0.125)
    new, shared = version(old, Changes(updated={row.id: row}))
    assert row in read_dataset(new)[0] and shared.written == 1
    found = read_manifest(new)
    assert (found.format, set(found.files)) == (2, set(inodes(new))) and found.settings["decontam"] == earlier
    assert "| exam | 7 | 1 |" in (new / "README.md").read_text(encoding="utf-8")
