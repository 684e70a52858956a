"""Disk checks: a writable output folder, and the bytes that a run will write."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tests.training.small_run import small_run
from training import export
from training.preflight import disk
from training.preflight.disk import RESULT, disk_line, disk_plan, disk_problems, probe_output, stored_bytes
from training.preflight.shapes import count_lora, count_parameters, read_dimensions

DIMENSIONS = read_dimensions(PROJECT_ROOT / "pocket/student")
PARAMETERS = 1_722_048  # 2048 x 192 + 3 x (4 x 192 x 192 + 3 x 192 x 512 + 2 x 192 + 2 x 64) + 192


def test_a_checkpoint_holds_the_model_a_master_copy_and_two_moments(tmp_path: Path) -> None:
    assert count_parameters(DIMENSIONS) == PARAMETERS
    three = small_run(tmp_path, checkpoints={"keep": 3})
    assert stored_bytes(three, DIMENSIONS) == 4 * PARAMETERS * (2 + 12) + 2 * PARAMETERS
    whole = small_run(
        tmp_path, checkpoints={"keep": 1}, trainer={"micro_batch_tokens": 2048, "dtype": "float32"}
    )
    assert stored_bytes(whole, DIMENSIONS) == 2 * PARAMETERS * (4 + 12) + 4 * PARAMETERS


def test_the_best_checkpoint_needs_space_of_its_own(tmp_path: Path) -> None:
    evaluation = {"problems": "x", "every_steps": 5}
    one = small_run(tmp_path, checkpoints={"keep": 1}, evaluation=evaluation)
    kept = small_run(tmp_path, checkpoints={"keep": 1}, evaluation={**evaluation, "keep_best": True})
    assert stored_bytes(kept, DIMENSIONS) - stored_bytes(one, DIMENSIONS) == PARAMETERS * (2 + 12)


def test_only_adapters_have_a_master_copy_and_moments(tmp_path: Path) -> None:
    run = small_run(
        tmp_path, trainer={"micro_batch_tokens": 2048, "lora": {"rank": 8}}, checkpoints={"keep": 1}
    )
    assert run.trainer.lora is not None
    adapters = count_lora(DIMENSIONS, run.trainer.lora)
    checkpoint, student = 2 * (PARAMETERS + adapters) + 12 * adapters, 2 * (PARAMETERS + adapters)
    assert stored_bytes(run, DIMENSIONS) == 2 * checkpoint + student


def test_a_full_disk_is_rejected_unless_the_run_already_occupies_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(tmp_path, checkpoints={"keep": 1})
    needed = stored_bytes(run, DIMENSIONS)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: tempfile_usage(free=needed - 1000))
    plan = disk_plan(run, DIMENSIONS, tmp_path, None)
    (problem,) = disk_problems(run, plan)
    assert problem.startswith("output: checkpoints and the trained student need 0.1 GB, but the disk of")
    assert "lower checkpoints.keep (1)" in problem
    own = tmp_path / "run"
    (own / "checkpoints").mkdir(parents=True)
    (own / "checkpoints" / "state.pt").write_bytes(bytes(1000))
    plan = disk_plan(run, DIMENSIONS, tmp_path, own)
    assert (plan.held, plan.needed, disk_problems(run, plan)) == (1000, needed, [])
    assert disk_line(plan) == "at most 0.1 GB for checkpoints and the trained student, 0.1 GB available"


def tempfile_usage(*, free: int) -> Any:
    return type("usage", (), {"free": free})


def test_a_finished_run_needs_no_space(tmp_path: Path) -> None:
    assert RESULT == export.RESULT
    (tmp_path / RESULT).write_text("{}", encoding="utf-8")
    assert disk_plan(small_run(tmp_path), DIMENSIONS, tmp_path, tmp_path).needed == 0


def test_probing_an_output_folder_leaves_no_files(tmp_path: Path) -> None:
    for output in (tmp_path, tmp_path / "a" / "b"):
        assert probe_output(small_run(tmp_path, output=str(output))) == tmp_path
        assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for output in (
        *(tmp_path / name for name in ("file", "file/x", "link", "x" * 300)),
        "a\0b",
    ):
        with pytest.raises(UserError, match=r"^output: .* cannot be created or written") as refused:
            probe_output(small_run(tmp_path, output=str(output)))
        assert "\n" not in str(refused.value)

    def read_only(**_: object) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", read_only)
    with pytest.raises(UserError, match=r"cannot be created or written \(Read-only file system\)"):
        probe_output(small_run(tmp_path, output=str(tmp_path / "ro")))
