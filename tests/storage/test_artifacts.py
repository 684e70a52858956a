"""The store looks up finished artifacts by fingerprint, writes shards atomically, and accounts for every row."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import xxhash

from tasks.errors import UserError
from tasks.rows import Reason, Reject, Selected
from tasks.storage.artifacts import (
    Artifact,
    CountMismatch,
    ShardHandle,
    Store,
    digest,
    shard_folder,
    sum_counts,
)

PRINT = "ab" * 32
OTHER = PRINT[:16] + "c" * 48  # the same folder name


def selected(*names: str) -> list[Selected]:
    return [Selected(problem_id=name, split="train") for name in names]


def rejects(*names: str, reason: Reason = Reason.TOO_SHORT) -> list[Reject]:
    return [Reject(problem_id=name, stage="rules", reason=reason) for name in names]


def counts(kept: int, rejected: Mapping[str, int] | None = None) -> dict[str, Any]:
    rejected = rejected or {}
    return {"counts": {"in": kept + sum(rejected.values()), "kept": kept, "rejected": dict(rejected)}}


def write(
    store: Store, index: int, kept: Sequence[str], dropped: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    tables = {"problems": (Selected, selected(*kept)), "rejects": (Reject, rejects(*dropped))}
    record = {**counts(len(kept), {Reason.TOO_SHORT: len(dropped)}), **more}
    return store.write_shard(store.folder("rules", PRINT), index, tables, record)


def finished(store: Store) -> Artifact:
    write(store, 0, ["a", "b"], ["c"], seconds=1.5)
    write(store, 1, ["d"])
    return store.finish("rules", PRINT, 2, {"config": {"min_chars": 30}})


def test_a_finished_artifact_is_found_by_its_fingerprint_and_gives_its_rows_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = finished(store)
    assert artifact == Artifact(
        name="rules", fingerprint=PRINT, path=tmp_path / "artifacts" / "rules-abababababababab", num_rows=3
    )
    assert Store(tmp_path).find("rules", PRINT) == artifact
    assert list(store.rows(artifact, "problems", Selected)) == selected("a", "b", "d")
    assert list(store.rows(artifact, "rejects", Reject)) == rejects("c")
    assert store.shards(artifact)[1] == ShardHandle(
        folder=artifact.path, index=1, path=artifact.path / "shard-00001"
    )
    assert store.shard_path(artifact, 1, "problems") == artifact.path / "shard-00001" / "problems.parquet"


def test_the_record_sums_counts_and_rows_and_names_inputs_and_versions(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = finished(store)
    folder = store.folder("select", OTHER)
    for index in range(2):
        record = counts(1, {"echo": 1, "refusal": index})
        store.write_shard(folder, index, {"chosen": (Selected, selected(f"x{index}"))}, record)
    artifact = store.finish("select", OTHER, 2, {"seconds": 0.5}, primary="chosen", inputs=[source])
    record = store.record(artifact)
    assert record["counts"] == {"in": 5, "kept": 2, "rejected": {"echo": 2, "refusal": 1}}
    assert record["tables"] == {"chosen": 2} and record["num_rows"] == artifact.num_rows == 2
    assert record["inputs"] == [{"name": "rules", "fingerprint": PRINT}]
    assert (
        record["seconds"] == 0.5
        and record["versions"]["pyarrow"]
        and record["finished_at"].endswith("+00:00")
    )
    assert store.record(source)["counts"] == {"in": 4, "kept": 3, "rejected": {"too_short": 1}}


def test_an_artifact_without_record_with_another_fingerprint_or_a_missing_part_is_not_found(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    assert store.find("rules", PRINT) is None
    write(store, 0, ["a"])
    assert store.find("rules", PRINT) is None
    artifact = store.finish("rules", PRINT, 1, {})
    assert store.find("rules", OTHER) is None
    table = store.shard_path(artifact, 0, "problems")
    content = table.read_bytes()
    table.write_bytes(content[:-1])
    assert store.find("rules", PRINT) is None
    table.write_bytes(content)
    assert store.find("rules", PRINT) == artifact
    table.unlink()
    assert store.find("rules", PRINT) is None


def test_a_damaged_record_means_not_finished_and_a_damaged_shard_is_rewritten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = finished(store)
    before = digest(artifact.path)
    (artifact.path / "record.json").write_text("{")
    assert store.find("rules", PRINT) is None
    with pytest.raises(UserError, match="no readable record"):
        store.record(artifact)
    store.shard_path(artifact, 1, "problems").unlink()
    assert store.finished_shard(artifact.path, 1) is None
    assert finished(store) == artifact and digest(artifact.path) == before
    assert list(store.rows(artifact, "problems", Selected)) == selected("a", "b", "d")


def test_a_finished_shard_is_never_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = write(store, 7, ["a", "b"])
    folder = store.folder("rules", PRINT)
    before = digest(folder)
    assert write(store, 7, ["other"]) == first
    assert digest(folder) == before
    assert store.finished_shard(folder, 7) == first
    content = (folder / "shard-00007/problems.parquet").read_bytes()
    assert first["tables"]["problems"] == {
        "rows": 2,
        "bytes": len(content),
        "digest": hashlib.sha256(content).hexdigest(),
        "xxh3": xxhash.xxh3_128_hexdigest(content),
    }


def test_the_same_work_gives_the_same_parquet_bytes_whatever_the_times_in_the_records(tmp_path: Path) -> None:
    folders = []
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        store = Store(tmp_path / name)
        write(store, 0, ["a"], ["b"], seconds=seconds)
        folders.append(store.finish("rules", PRINT, 1, {"seconds": seconds}).path)
    assert (folders[0] / "record.json").read_bytes() != (folders[1] / "record.json").read_bytes()
    assert digest(folders[0]) == digest(folders[1])
    (folders[1] / ".tmp-shard-00001-0123456789ab").mkdir()
    (folders[1] / ".tmp-shard-00001-0123456789ab" / "x.parquet").write_bytes(b"half")
    assert digest(folders[0]) == digest(folders[1])
    table = folders[1] / "shard-00000" / "problems.parquet"
    table.rename(table.with_name("renamed.parquet"))
    assert digest(folders[0]) != digest(folders[1])


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"in": 4, "kept": 2, "rejected": {"too_short": 1}}, r"shard-00000: 4 in, but 2 kept \+ 1 rejected"),
        ({"in": 2, "kept": 2, "rejected": {"too_short": 1}}, r"2 in, but 2 kept \+ 1 rejected"),
        ({"in": 1, "kept": 2, "rejected": {"too_short": -1}}, "negative"),
        ({"in": 3, "kept": 1, "rejected": {"too_short": 2}}, r"the table 'rejects' has \{'too_short': 1\}"),
        ({"in": 3, "kept": 2, "rejected": {"too_long": 1}}, r"rejected rows are \{'too_long': 1\}, but"),
    ],
)
def test_a_shard_whose_counts_do_not_add_up_is_refused_and_nothing_is_written(
    tmp_path: Path, record: dict[str, Any], why: str
) -> None:
    tables = {"problems": (Selected, selected("a", "b")), "rejects": (Reject, rejects("c"))}
    with pytest.raises(CountMismatch, match=why):
        Store(tmp_path).write_shard(tmp_path / "f", 0, tables, {"counts": record})
    assert list(tmp_path.iterdir()) == []


def test_only_the_table_rejects_must_match_the_counts(tmp_path: Path) -> None:
    tables = {"problems": (Selected, selected("a")), "lost_responses": (Reject, rejects("a", "a"))}
    record = Store(tmp_path).write_shard(tmp_path / "f", 0, tables, {"counts": counts(1)["counts"]})
    assert record["tables"]["lost_responses"]["rows"] == 2


def test_rows_that_cannot_be_written_leave_no_shard(tmp_path: Path) -> None:
    store, folder = Store(tmp_path), tmp_path / "f"
    bad = [Selected(problem_id="a", split=None)]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="column split, row 0"):
        store.write_shard(
            folder, 0, {"fine": (Selected, selected("a")), "problems": (Selected, bad)}, counts(1)
        )
    assert list(folder.iterdir()) == [] and store.finished_shard(folder, 0) is None


def test_an_artifact_is_not_finished_without_all_its_shards_or_its_primary_table(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, 0, ["a"])
    with pytest.raises(ValueError, match="shard 1 is missing"):
        store.finish("rules", PRINT, 2, {})
    with pytest.raises(ValueError, match="has no table 'responses'; it has problems, rejects"):
        store.finish("rules", PRINT, 1, {}, primary="responses")
    with pytest.raises(ValueError, match="may not contain counts"):
        store.finish("rules", PRINT, 1, {"counts": {}})
    assert store.find("rules", PRINT) is None


def test_an_artifact_without_shards_is_complete_and_empty(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = store.finish("evolve-5", PRINT, 0, {})
    assert artifact.num_rows == 0 and store.find("evolve-5", PRINT) == artifact
    assert store.record(artifact)["counts"] == {"in": 0, "kept": 0, "rejected": {}}
    assert list(store.rows(artifact, "problems", Selected)) == []


def test_finishing_again_keeps_the_first_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = finished(store)
    before = (artifact.path / "record.json").read_bytes()
    assert store.finish("rules", PRINT, 2, {"config": "another"}) == artifact
    assert (artifact.path / "record.json").read_bytes() == before


def test_a_discarded_artifact_is_gone_with_its_shards(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = finished(store)
    store.discard(artifact)
    store.discard(artifact)
    assert store.find("rules", PRINT) is None and store.finished_shard(artifact.path, 0) is None
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_an_error_about_a_missing_table_names_its_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UserError, match=r"File .*shard-00000/verdicts\.parquet does not exist"):
        list(store.rows(finished(store), "verdicts", Selected))


def test_a_writer_killed_at_any_moment_leaves_only_complete_shards_and_the_next_run_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/storage'); from pathlib import Path; import test_artifacts as t\n"
        "store = t.Store(Path(sys.argv[1])); print('ready', flush=True)\n"
        "for index in range(1000): t.write(store, index, [f'p{index}-{i}' for i in range(50)], ['x'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "killed")],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    killed, folder = Store(tmp_path / "killed"), Store(tmp_path / "killed").folder("rules", PRINT)
    while not shard_folder(folder, 2).exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stdout.close()
    done = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    assert all(killed.finished_shard(folder, int(entry.name[-5:])) for entry in done)
    kept_times = {entry.name: entry.stat().st_mtime_ns for entry in done}
    total, undisturbed = len(done) + 3, Store(tmp_path / "undisturbed")
    for store in (killed, undisturbed):
        for index in range(total):
            write(store, index, [f"p{index}-{i}" for i in range(50)], ["x"])
        store.finish("rules", PRINT, total, {})
    assert digest(folder) == digest(undisturbed.folder("rules", PRINT))
    assert {entry.name: entry.stat().st_mtime_ns for entry in done} == kept_times
    assert not [entry for entry in folder.iterdir() if entry.name.startswith(".")]


def test_counts_are_summed_over_shards_with_reasons_as_plain_strings() -> None:
    parts = [
        {"in": 3, "kept": 1, "rejected": {Reason.ECHO: 2}},
        {"in": 1, "kept": 0, "rejected": {"echo": 1}},
    ]
    total = sum_counts(parts)
    assert total == {"in": 4, "kept": 1, "rejected": {"echo": 3}}
    assert json.loads(json.dumps(total)) == total
