"""Flipped bits in shards, datasets, records, cards and checkpoints: each is named, or changes nothing that is read."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.rows import Reject, Response, Selected
from tasks.storage.artifacts import Artifact, Store, shard_folder
from tasks.storage.dataset import read_dataset, write_dataset
from tasks.storage.manifest import damage, read_manifest
from tasks.storage.tables import read_rows
from tasks.storage.versions import latest, write_latest
from tests.hostile.trials import Trials
from tests.storage.test_artifacts import PRINT, finished
from tests.storage.test_dataset import EXAMPLES, RESPONSES, manifest
from training.config import DatasetSettings
from training.data import rows as training_rows
from training.student import checkpoints

KINDS = ("shards", "dataset files", "records", "checkpoints")


Reader = Callable[[Path, Callable[[str], None]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An output folder with an artifact, a dataset, `latest.json` and two checkpoints."""

    root: Path

    @property
    def artifact(self) -> Path:
        return Store(self.root).folder("rules", PRINT)

    def files(self, kind: str) -> list[Path]:
        """Return the files of a kind."""
        tables = [*self.artifact.rglob("*.parquet"), *(self.root / "samples").glob("*/*.parquet")]
        newest = checkpoints.step_folder(self.root / "checkpoints", 2)
        records = [*self.artifact.rglob("record.json"), self.root / "latest.json"]
        records += [
            self.root / "dataset/manifest.json",
            self.root / "dataset/README.md",
            newest / "record.json",
        ]
        return sorted({
            "shards": tables,
            "dataset files": list((self.root / "dataset").rglob("*.parquet")),
            "records": records,
            "checkpoints": [path for path in newest.iterdir() if path.name != "record.json"],
        }[kind])  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("bits")
    finished(Store(root))
    responses = [row for rows in RESPONSES.values() for row in rows]
    counts = {"counts": {"in": len(responses), "kept": len(responses), "rejected": {}}}
    Store(root).write_shard(root / "samples", 0, {"responses": (Response, responses)}, counts)
    write_dataset(root / "dataset", EXAMPLES, RESPONSES, manifest())
    write_latest(root, {"dataset": "dataset", "report": "report.html", "counts": {"train": 3}})
    for step in (1, 2):
        with checkpoints.writing(root / "checkpoints", step, {"seed": 7}, keep=2) as folder:
            (folder / "weights").write_bytes(random.Random(step).randbytes(20_000))
            (folder / "random-0.npz").write_bytes(random.Random(-step).randbytes(500))
    return Place(root=root)


def read_shards(root: Path, _warn: Callable[[str], None]) -> object:
    """Read the record and all rows. A damaged shard must also be incomplete for the driver, which makes it again."""
    store, folder = Store(root), Store(root).folder("rules", PRINT)
    wrong = [store.damage(place, index) for place, index in ((folder, 0), (folder, 1), (root / "samples", 0))]
    try:
        rows: list[Any] = [read_rows(root / "samples/shard-00000/responses.parquet", Response)]
        for index in range(2):
            rows.append(read_rows(shard_folder(folder, index) / "problems.parquet", Selected))
            rows.append(read_rows(shard_folder(folder, index) / "rejects.parquet", Reject))
    except UserError:
        assert any(wrong), "the driver would not make the shard again"
        raise
    assert not any(wrong), f"read in silence: {wrong}"
    artifact = Artifact(name="rules", fingerprint=PRINT, path=folder, num_rows=3)
    record = store.record(artifact)
    assert store.find("rules", PRINT) == artifact
    return record, rows


def read_datasets(root: Path, _warn: Callable[[str], None]) -> object:
    found: list[Any] = [read_manifest(root / "dataset"), *read_dataset(root / "dataset"), latest(root)]
    found += [
        training_rows.read_dataset(DatasetSettings(folder=root / "dataset", config=config)).rows
        for config in ("default", "decontaminated")
    ]
    assert damage(root / "dataset") is None
    return found


def read_checkpoint(root: Path, warn: Callable[[str], None]) -> object:
    folder = checkpoints.latest(root / "checkpoints", warn)
    assert folder is not None
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "record.json"}
    return checkpoints.read_record(folder)["step"], checkpoints.read_record(folder)["seed"], contents


def flip(path: Path, rng: random.Random) -> bytes:
    """Flip one bit of a file, and return its former content."""
    good = path.read_bytes()
    bit = rng.randrange(8 * len(good))
    damaged = bytearray(good)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    return good


def reader_of(path: Path, root: Path) -> Reader:
    """Return the function that reads everything that depends on a file."""
    first = path.relative_to(root).parts[0]
    readers: dict[str, Reader] = {
        "dataset": read_datasets,
        "latest.json": read_datasets,
        "checkpoints": read_checkpoint,
    }
    return readers.get(first, read_shards)


def trial(place: Place, kind: str) -> Callable[[random.Random], None]:
    """Return a check that flips one bit of a file of this kind and reads everything that depends on it."""
    undamaged: dict[Reader, object] = {
        reader: reader(place.root, pytest.fail) for reader in (read_shards, read_datasets, read_checkpoint)
    }

    def check(rng: random.Random) -> None:
        path, named = rng.choice(place.files(kind)), list[str]()
        good, reader, found = flip(path, rng), reader_of(path, place.root), None
        try:
            found = reader(place.root, named.append)
        except UserError as error:
            named.append(str(error))
        finally:
            path.write_bytes(good)
        if found != undamaged[reader]:
            assert named, f"{path}: changed in silence"
            near = (path.name, path.parent.name, path.parents[1].name)
            assert any(part in line for line in named for part in near), f"{path} is not named: {named}"

    return check


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_named_or_without_effect(place: Place, trials: Trials, kind: str) -> None:
    trials.run(f"flipped bits in {kind}", 25, trial(place, kind))


@pytest.mark.hostile
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_are_named_or_without_effect(place: Place, trials: Trials, kind: str) -> None:
    trials.run(f"flipped bits in {kind}", 500, trial(place, kind))
