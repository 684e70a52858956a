"""Damaged files and records are noticed and named; files of earlier versions are read, or refused by their version."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.errors import UserError
from tasks.rows import Reject, Selected
from tasks.runtime.dataset_export import is_written
from tasks.runtime.driver import Stage
from tasks.runtime.pending import Pending
from tasks.storage.artifacts import Store, shard_folder
from tasks.storage.checksums import Damaged, sealed, unsealed
from tasks.storage.dataset import read_dataset, write_dataset
from tasks.storage.manifest import MANIFEST, Manifest, damage, read_manifest
from tasks.storage.versions import latest, write_latest
from tests.storage.test_artifacts import PRINT, finished, selected, write
from tests.storage.test_dataset import EXAMPLES, RESPONSES, manifest


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


# --- records -----------------------------------------------------------------------------------------------------


def test_a_sealed_record_is_read_back_and_may_be_formatted_differently() -> None:
    record = {"b": [1, 2.5, None], "a": {"é": "x"}, "versions": {"sure-math": "1.0"}}
    text = json.dumps(sealed(record))
    assert unsealed(text) == {**record, "format": 2}
    assert unsealed(json.dumps(json.loads(text), indent=4, sort_keys=True).encode()) == {
        **record,
        "format": 2,
    }
    assert unsealed(json.dumps(record)) == record  # format 1


def test_every_flipped_bit_of_a_record_is_noticed() -> None:
    record = {"counts": {"in": 12, "kept": 11}, "notes": ["a", 0.25, True, None]}
    text = json.dumps(sealed(record)).encode()
    for bit in range(8 * len(text)):
        try:
            found = unsealed(flipped(text, bit))
        except Damaged:
            continue
        assert found == {**record, "format": 2}, bit


# --- shards ------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_table_makes_the_shard_incomplete_and_it_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = finished(store)
    path = store.shard_path(artifact, 1, "problems")
    good = path.read_bytes()
    for bit in range(0, 8 * len(good), 97):
        path.write_bytes(flipped(good, bit))
        with pytest.raises(
            UserError, match=r"shard-00001/problems\.parquet is damaged.* the shard is made again"
        ):
            list(store.rows(artifact, "problems", Selected))
    assert Store(tmp_path).find("rules", PRINT) is None
    assert store.damage(artifact.path, 0) is None
    assert store.damage(artifact.path, 1) == (
        "rules-abababababababab/shard-00001: problems.parquet differs from its checksum"
    )
    assert finished(store) == artifact and path.read_bytes() == good
    assert list(store.rows(artifact, "problems", Selected)) == selected("a", "b", "d")


def test_shards_of_format_1_are_verified_by_their_sha256(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = finished(store)
    for path in artifact.path.rglob("record.json"):
        record = json.loads(path.read_text())
        for key in ("format", "checksum"):
            del record[key]
        for table in record["tables"].values() if "shard" in record else ():
            del table["xxh3"]
        path.write_text(json.dumps(record))
    assert store.find("rules", PRINT) == artifact
    assert next(store.rows(artifact, "rejects", Reject)).problem_id == "c"
    path = store.shard_path(artifact, 0, "problems")
    path.write_bytes(flipped(path.read_bytes(), 800))
    with pytest.raises(UserError, match=r"problems\.parquet is damaged"):
        list(store.rows(artifact, "problems", Selected))
    assert Store(tmp_path).find("rules", PRINT) is None


@pytest.mark.parametrize(
    "record", ["[]", '{"shard": 0}', '{"shard": 0, "tables": {"problems": 3}}', "\xff", ""]
)
def test_a_record_without_the_keys_of_a_shard_is_damage(tmp_path: Path, record: str) -> None:
    store = Store(tmp_path)
    artifact = finished(store)
    (shard_folder(artifact.path, 0) / "record.json").write_bytes(record.encode("latin-1"))
    assert store.damage(artifact.path, 0) == (
        "rules-abababababababab/shard-00000: record.json is missing or damaged"
    )
    assert finished(store) == artifact and store.damage(artifact.path, 0) is None


def test_a_record_of_a_later_version_is_refused_and_not_overwritten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = finished(store)
    path = artifact.path / "record.json"
    path.write_text(json.dumps(sealed({"versions": {"sure-math": "9.0"}, "format": 9})))
    with pytest.raises(
        UserError, match=r"sure-math 9\.0 \(format 9\), which is later than this one.*delete the folder"
    ):
        store.find("rules", PRINT)


def test_stray_entries_of_an_artifact_are_ignored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("rules", PRINT)
    write(store, 0, ["a"], key="k0")
    write(store, 1, ["b"], key="k1")
    artifact = store.finish("rules", PRINT, 2, {})
    for stray in ("shard-00000 (copy)", "shard-00000.bak", "shard-", "shard-1", "Shard-00007"):
        shutil.copytree(folder / "shard-00000", folder / stray)
    shutil.copytree(folder, folder.with_name("rules-abababababababab (copy)"))
    folder.joinpath("shard-00003").write_text("not a folder")
    assert store.find("rules", PRINT) == artifact
    assert store.shards_by_key("rules") == {"k0": folder / "shard-00000", "k1": folder / "shard-00001"}
    assert store.shard_numbers(folder) == [0, 1, 3] and store.finished_shard(folder, 3) is None


def test_a_damaged_shard_of_an_earlier_run_is_not_reused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stage = Stage(name="rules", version=1, settings={})
    pending = Pending(store, stage, lambda index: f"content {index}")
    for index in range(2):
        write(store, index, [f"{index}"], key=pending.key(index))
    path = store.folder("rules", PRINT) / "shard-00000" / "problems.parquet"
    path.write_bytes(flipped(path.read_bytes(), 800))
    assert pending.earlier(0) is None and pending.is_left(0)
    assert pending.earlier(1) == path.parents[1] / "shard-00001"


# --- manifests ---------------------------------------------------------------------------------------------------


def of_format_1(text: str) -> str:
    """The text of a manifest as it was before there were checksums."""
    record = json.loads(text)
    for key in ("format", "checksum", "files"):
        record.pop(key)
    return json.dumps(record)


OLD = of_format_1(manifest(versions={"sure-math": "0.0.9"}).to_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "x.json is not valid JSON: restore the file, or export the dataset again"),
        (b"\xff\xfe", "x.json is not valid JSON"),
        ("[]", "x.json is not a JSON object"),
        ("{}", "name: Field required"),
        (
            OLD.replace('"licence"', '"license"', 1),
            r"licence: Field required; it .* sure-math 0\.0\.9 \(format 1\)",
        ),
        (OLD.replace('"kept": 1234000', '"kept": 1'), "stages.0: .*1234567 in, but 1 kept"),
        (manifest().to_json().replace('"profile"', '"profilf"'), "x.json does not have the checksum"),
        (manifest().to_json().replace('"temperature": 0.7', '"temperature": 0.5'), "not have the checksum"),
        (manifest().to_json().replace('"checksum"', '"checksun"'), "x.json has lost its checksum"),
        (
            json.dumps(sealed({"versions": {"sure-math": "9.1"}, "format": 7})),
            r"sure-math 9\.1 \(format 7\), which is later than this one \(format 2\)",
        ),
    ],
)
def test_a_damaged_or_foreign_manifest_is_refused(text: str | bytes, message: str):
    with pytest.raises(UserError, match=message):
        Manifest.from_json(text, "x.json")


# --- datasets ----------------------------------------------------------------------------------------------------


def test_a_manifest_of_format_1_is_read():
    assert Manifest.from_json(OLD) == manifest(versions={"sure-math": "0.0.9"}, format=1)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "dataset", EXAMPLES, RESPONSES, manifest())
    return tmp_path / "dataset"


def test_every_file_of_a_dataset_is_verified_when_it_is_read(written: Path):
    files = sorted(written.rglob("*.parquet"))
    assert sorted(read_manifest(written).files) == [path.relative_to(written).as_posix() for path in files]
    for path in files:
        good = path.read_bytes()
        for damaged in (flipped(good, 8 * (len(good) // 2)), good[:-1], bytes(len(good))):
            path.write_bytes(damaged)
            with pytest.raises(
                UserError, match=f"{path.name} is damaged: its bytes differ from the checksum"
            ):
                read_dataset(written)
        path.write_bytes(good)
    assert len(read_dataset(written)[0]) == 4


@pytest.mark.parametrize(
    "name", ["train-00000-of-00001 (copy).parquet", "old-00000-of-00001.parquet", "x.parquet"]
)
def test_a_stray_file_is_refused_by_name_and_other_files_are_ignored(written: Path, name: str):
    data = written / "data"
    shutil.copy(data / "train-00000-of-00001.parquet", data / "train-00000-of-00001.parquet.bak")
    assert len(read_dataset(written)[0]) == 4
    shutil.copy(data / "train-00000-of-00001.parquet", data / name)
    with pytest.raises(UserError, match=re.escape(f"data/{name} does not belong to the dataset: move")):
        read_dataset(written)


def test_a_missing_file_is_refused_by_name(written: Path):
    (written / "responses/test-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"responses/test-00000-of-00001\.parquet is missing"):
        read_dataset(written)


def test_a_dataset_of_format_1_is_read_except_for_strays(written: Path):
    path = written / MANIFEST
    path.write_text(of_format_1(path.read_text()))
    assert len(read_dataset(written)[0]) == 4
    shutil.copy(written / "data/train-00000-of-00001.parquet", written / "data/train (copy).parquet")
    with pytest.raises(UserError, match=r"data/train \(copy\).parquet does not belong to the dataset"):
        read_dataset(written)


def test_a_dataset_with_the_columns_of_another_version_is_refused_by_its_version(written: Path):
    path = written / MANIFEST
    record = json.loads(of_format_1(path.read_text()))
    path.write_text(json.dumps({**record, "versions": {"sure-math": "0.0.9"}}))
    file = written / "data/train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(file).rename_columns({"weight": "w"}), file)
    with pytest.raises(
        UserError, match=r"has no column 'weight'.*: it was written by .*sure-math 0\.0\.9 \(format 1\)"
    ):
        read_dataset(written)


def test_a_damaged_dataset_is_named_and_exported_again(written: Path):
    root, named = written.parent, list[str]()
    found = {"fingerprint": manifest().fingerprint, "dataset": "dataset", "report": "report.html"}
    (root / "report.html").write_text("page")
    write_latest(root, found)
    assert not is_written(root, found, named.append)  # without the texts beside the report
    (root / "report").mkdir()
    assert is_written(root, found, named.append) and named == [] and damage(written) is None
    path = written / "responses/train-00000-of-00001.parquet"
    good = path.read_bytes()
    path.write_bytes(flipped(good, 4000))
    assert not is_written(root, found, named.append)
    path.unlink()
    assert not is_written(root, found, named.append)
    path.write_bytes(good)
    (written / MANIFEST).write_bytes(flipped((written / MANIFEST).read_bytes(), 4000))
    assert not is_written(root, found, named.append)
    assert [line.removeprefix(f"{written}/") for line in named[:2]] == [
        "responses/train-00000-of-00001.parquet differs from its checksum; the dataset is written again",
        "responses/train-00000-of-00001.parquet cannot be read (No such file or directory); the dataset is written again",
    ]
    assert MANIFEST in named[2]


def test_a_damaged_note_of_the_newest_version_is_one_sentence(tmp_path: Path):
    write_latest(tmp_path, {"dataset": "dataset", "report": "report.html", "counts": {"train": 3}})
    path = tmp_path / "latest.json"
    assert latest(tmp_path)["counts"] == {"train": 3}
    path.write_text(path.read_text().replace('"train": 3', '"train": 7'))
    with pytest.raises(UserError, match=r"latest\.json is missing or damaged"):
        latest(tmp_path)
