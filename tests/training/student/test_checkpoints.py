"""Checkpoints are written atomically; the newest complete one is found; a full disk raises one error and leaves no folder."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from safetensors import SafetensorError

from tasks.errors import UserError
from training.student.checkpoints import (
    DiskFull,
    full_disk_named,
    latest,
    read_record,
    step_folder,
    steps,
    writing,
)
from training.student.group import check_layout

PROJECT = Path(__file__).resolve().parents[3]


def write(root: Path, step: int, *, keep: int = 2, content: str = "weights") -> None:
    with writing(root, step, {"seed": 7}, keep=keep) as folder:
        (folder / "state").write_text(content)


def test_the_newest_checkpoints_are_kept_and_the_latest_is_found(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") is None
    for step in (10, 20, 30, 100):
        write(tmp_path, step)
    assert steps(tmp_path) == [30, 100]
    assert latest(tmp_path) == step_folder(tmp_path, 100)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-00000030", "step-00000100"]


def test_the_best_checkpoint_is_kept_besides_the_newest(tmp_path: Path) -> None:
    for step, best in ((10, 10), (20, 10), (30, 10), (40, 10), (50, 50), (60, 50)):
        with writing(tmp_path, step, {}, keep=2, best=best) as folder:
            (folder / "state").write_text("weights")
        assert best in steps(tmp_path) and len(steps(tmp_path)) <= 3
    assert steps(tmp_path) == [50, 60]


def test_a_later_checkpoint_that_was_damaged_does_not_displace_the_new_one(tmp_path: Path) -> None:
    for step in (3, 6):
        with writing(tmp_path, step, {}, keep=2) as folder:
            (folder / "model").write_bytes(b"weights")
    (step_folder(tmp_path, 6) / "model").write_bytes(b"damaged")
    assert latest(tmp_path) == step_folder(tmp_path, 3)
    with writing(tmp_path, 4, {}, keep=1) as folder:
        (folder / "model").write_bytes(b"weights")
    assert steps(tmp_path) == [4]


def test_the_record_is_read_back(tmp_path: Path) -> None:
    write(tmp_path, 4)
    record = read_record(step_folder(tmp_path, 4))
    assert record.pop("versions")["sure-math"]
    state = {"bytes": 7, "xxh3": xxhash.xxh3_128_hexdigest(b"weights")}
    assert record == {"step": 4, "seed": 7, "files": {"state": state}, "format": 2}


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 4, content="old")
    write(tmp_path, 4, content="new")
    assert (step_folder(tmp_path, 4) / "state").read_text() == "new"


def test_folders_that_are_not_complete_checkpoints_are_never_the_latest(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / "step-00000009").mkdir()
    (tmp_path / ".tmp-step-00000008-0123456789ab").mkdir()
    (tmp_path / "export").mkdir()
    assert latest(tmp_path) == step_folder(tmp_path, 3)
    with pytest.raises(UserError, match="not a complete checkpoint"):
        read_record(tmp_path / "step-00000009")


def test_after_a_kill_while_writing_the_previous_checkpoint_is_the_latest(tmp_path: Path) -> None:
    write(tmp_path, 5)
    code = (
        "import os, signal; from pathlib import Path; from training.student.checkpoints import writing\n"
        f"with writing(Path({str(tmp_path)!r}), 6, {{}}, keep=2) as folder:\n"
        "    (folder / 'state').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False)
    assert done.returncode == -9
    assert latest(tmp_path) == step_folder(tmp_path, 5)
    write(tmp_path, 6)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-00000005", "step-00000006"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), DiskFull("rank 1")])
def test_a_full_disk_is_reported_and_leaves_no_partial_folder(tmp_path: Path, error: Exception) -> None:
    write(tmp_path, 1)
    with (
        pytest.raises(UserError, match=r"^The disk is full: .*step-00000002"),
        writing(tmp_path, 2, {}, keep=2) as folder,
    ):
        (folder / "state").write_text("half")
        raise error
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]


def safetensors_without_room() -> None:
    """Raise the error of safetensors on a full disk (writing to /dev/full would replace the device file)."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_every_writer_raises_disk_full() -> None:
    full = Path("/dev/full")
    for write_to_full in (
        lambda: full.write_bytes(b"x" * 10_000),
        lambda: torch.save({"x": torch.zeros(100_000)}, full),
        lambda: np.savez(full.open("wb"), x=np.zeros(100_000)),
        safetensors_without_room,
    ):
        with pytest.raises(DiskFull), full_disk_named():
            write_to_full()


def test_other_errors_of_a_writer_are_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shape"), full_disk_named():
        raise RuntimeError("bad shape")
    with pytest.raises(PermissionError), full_disk_named():
        raise PermissionError(errno.EACCES, "no")


def test_damaged_checkpoints_are_skipped(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step, keep=3)
    (step_folder(tmp_path, 3) / "state").write_text("weig")
    (step_folder(tmp_path, 2) / "state").unlink()
    output: list[str] = []
    assert latest(tmp_path, output.append) == step_folder(tmp_path, 1)
    assert output == [
        "checkpoint step-00000003 is damaged (state has 4 bytes instead of 7) and is skipped",
        "checkpoint step-00000002 is damaged (state: No such file or directory) and is skipped",
    ]
    (step_folder(tmp_path, 1) / "state").write_text("")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged, the newest being step-00000003"):
        latest(tmp_path)


def rewrite(folder: Path, **changes: object) -> None:
    """Write the record as it is after `changes`, without a checksum; a key with the value None is left out."""
    record = {**json.loads((folder / "record.json").read_text()), **changes, "checksum": None}
    kept = {key: value for key, value in record.items() if value is not None}
    (folder / "record.json").write_text(json.dumps(kept))


def test_weights_of_the_right_size_and_the_wrong_content_are_damage(tmp_path: Path) -> None:
    for step in (1, 2):
        write(tmp_path, step)
    (step_folder(tmp_path, 2) / "state").write_bytes(bytes(7))
    output: list[str] = []
    assert latest(tmp_path, output.append) == step_folder(tmp_path, 1)
    assert output == ["checkpoint step-00000002 is damaged (state differs from its checksum) and is skipped"]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"seed": 7', b'"seed": 5', "record.json does not have the checksum that it was written with"),
        (b'"checksum"', b'"checksun"', "record.json has lost its checksum"),
        (b"{", b"[", "record.json is not valid JSON"),
        (b'"seed"', b'"\xffeed"', "record.json is not valid JSON"),
    ],
)
def test_a_damaged_record_is_damage_and_an_earlier_checkpoint_is_used(
    tmp_path: Path, old: bytes, new: bytes, why: str
) -> None:
    for step in (1, 2):
        write(tmp_path, step)
    path = step_folder(tmp_path, 2) / "record.json"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    output: list[str] = []
    assert latest(tmp_path, output.append) == step_folder(tmp_path, 1)
    assert output == [f"checkpoint step-00000002 is damaged ({why}) and is skipped"]
    with pytest.raises(UserError, match="is not a complete checkpoint"):
        read_record(path.parent)


def test_a_checkpoint_of_format_1_is_read_by_its_sizes(tmp_path: Path) -> None:
    write(tmp_path, 3)
    folder = step_folder(tmp_path, 3)
    rewrite(folder, files={"state": 7}, format=None, versions=None)
    assert latest(tmp_path) == folder and read_record(folder)["seed"] == 7
    (folder / "state").write_text("weight")
    with pytest.raises(UserError, match="state has 6 bytes instead of 7"):
        latest(tmp_path)


def test_checkpoints_of_other_versions_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, 3)
    folder = step_folder(tmp_path, 3)
    rewrite(folder, files=None, format=None, versions={"sure-math": "0.0.1"})
    with pytest.raises(
        UserError, match=r"written by another version, sure-math 0\.0\.1 \(format 1\), which did not"
    ):
        latest(tmp_path)
    rewrite(folder, files={"state": 7}, format=9, versions={"sure-math": "3.0"})
    with pytest.raises(
        UserError, match=r"sure-math 3\.0 \(format 9\), which is later than this one \(format 2\)"
    ):
        latest(tmp_path)
    with pytest.raises(UserError, match="did not record the layout"):
        check_layout(folder, None, 1, 1)


@pytest.mark.parametrize(("written", "now"), [(1, 2), (2, 1), (0, 0), (3, 3)])
def test_checkpoints_of_a_compatible_zero_stage_are_accepted(tmp_path: Path, written: int, now: int) -> None:
    check_layout(tmp_path, {"students": 2, "zero_stage": written}, 2, now)


def test_checkpoints_of_another_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"placement\.students 2, but this run has 4: restore the setting"):
        check_layout(tmp_path, {"students": 2, "zero_stage": 1}, 4, 1)
    with pytest.raises(UserError, match="zero_stage 1, but this run has 3: restore the setting"):
        check_layout(tmp_path, {"students": 2, "zero_stage": 1}, 2, 3)


def test_keeping_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep is 0"):
        write(tmp_path, 1, keep=0)
