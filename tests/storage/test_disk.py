"""Files and folders are written atomically: after an error, a kill, a race, or on a full disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.storage.disk import atomic_write, make_folder, remove_folder, sweep, whole_folder


@contextmanager
def writer_at_work(path: Path, replace: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Start another process, which is inside `whole_folder(path)` and has written one file."""
    code = (
        "import sys, time; from pathlib import Path; from tasks.storage.disk import whole_folder\n"
        f"with whole_folder(Path({str(path)!r}), replace={replace}) as folder:\n"
        "    (folder / 'part').write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_folder_appears_only_when_its_block_has_ended(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "deep" / "a") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "deep" / "a").exists()
    assert (tmp_path / "deep" / "a" / "x").read_text() == "1"
    assert names(tmp_path / "deep") == ["a"]


def test_an_error_in_the_block_leaves_nothing_behind_and_an_old_folder_unchanged(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), whole_folder(tmp_path / "a", replace=True) as folder:
            (folder / "x").write_text("new")
            raise error
    assert names(tmp_path) == ["a"] and (tmp_path / "a" / "x").read_text() == "old"


def test_an_existing_folder_is_kept_unless_replace_is_set(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
    with pytest.raises(FileExistsError), whole_folder(tmp_path / "a"):
        pytest.fail("the block must not run")
    with whole_folder(tmp_path / "a", replace=True) as folder:
        (folder / "y").write_text("2")
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["y"]


def test_of_two_writers_at_once_the_first_to_finish_wins(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), whole_folder(tmp_path / "a") as slow:
        (slow / "x").write_text("slow")
        with whole_folder(tmp_path / "a") as fast:
            (fast / "x").write_text("fast")
    assert names(tmp_path) == ["a"] and (tmp_path / "a" / "x").read_text() == "fast"


def test_many_threads_may_replace_a_folder_at_once(tmp_path: Path) -> None:
    def replace(number: int) -> None:
        for _ in range(10):
            with whole_folder(tmp_path / "a", replace=True) as folder:
                (folder / "x").write_text(str(number))

    threads = [threading.Thread(target=replace, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == ["a"] and (tmp_path / "a" / "x").read_text() in "0123"


def test_a_killed_writer_leaves_no_folder_and_the_next_start_removes_its_leftover(tmp_path: Path) -> None:
    with writer_at_work(tmp_path / "a") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (leftover,) = names(tmp_path)
    assert leftover.startswith(".tmp-a-")
    with whole_folder(tmp_path / "a") as folder:
        assert not (tmp_path / leftover).exists()
        (folder / "x").write_text("1")
    assert names(tmp_path) == ["a"]


def test_the_unfinished_work_of_a_live_writer_and_of_other_names_is_left_alone(tmp_path: Path) -> None:
    others = (".tmp-b-0123456789ab", ".tmp-a", ".tmp-a-xyz", "tmp-a-0123456789ab")
    for other in others:
        (tmp_path / other).mkdir()
    with writer_at_work(tmp_path / "a"):
        sweep(tmp_path, "a")
        assert len(names(tmp_path)) == len(others) + 1
    sweep(tmp_path, "a")
    assert names(tmp_path) == sorted(others)
    sweep(tmp_path)
    assert names(tmp_path) == sorted(others[1:])


def test_the_old_folder_is_restored_after_a_kill_between_the_two_renames(tmp_path: Path) -> None:
    (tmp_path / ".old-a-0123456789ab").mkdir()  # left behind by the kill
    (tmp_path / ".old-a-0123456789ab" / "x").write_text("old")
    (tmp_path / ".tmp-a-0123456789ab").mkdir()
    with pytest.raises(FileExistsError), whole_folder(tmp_path / "a"):
        pytest.fail("the old folder was restored, so the block must not run")
    assert names(tmp_path) == ["a"] and (tmp_path / "a" / "x").read_text() == "old"


def test_a_file_is_replaced_in_one_step_and_keeps_its_old_content_on_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "record.json"
    atomic_write(path, "größer")
    assert path.read_bytes() == "größer".encode()
    atomic_write(path, b"\x00\x01")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="broken disk"):
        atomic_write(path, "new")
    assert path.read_bytes() == b"\x00\x01" and names(tmp_path / "deep") == ["record.json"]


def test_a_full_disk_is_reported_with_path_and_bytes_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"disk is full: .*/a needs at least 1,001 bytes"),
        whole_folder(tmp_path / "a") as folder,
    ):
        (folder / "x").write_bytes(bytes(1000))
        with open(
            "/dev/full", "wb", buffering=0
        ) as full:  # writing to it fails with "no space left on device"
            full.write(b"x")
    assert names(tmp_path) == []


def test_a_full_disk_names_the_file_that_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UserError, match=r"x\.json needs at least 2,000 bytes; free some space"):
        atomic_write(tmp_path / "x.json", bytes(2000))
    assert names(tmp_path) == []


def test_a_file_in_the_way_of_a_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(UserError, match=r"Cannot create the folder .*/a.*choose another output folder"):
            make_folder(path)


def test_a_folder_can_be_removed_twice(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_folder(tmp_path / "a")
    remove_folder(tmp_path / "a")
    assert names(tmp_path) == []
