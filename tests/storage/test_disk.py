"""Files and folders are written atomically: after an error, a kill, a race, or on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.storage import disk
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
        for _ in range(50):
            with whole_folder(tmp_path / "a", replace=True) as folder:
                (folder / "x").write_text(str(number))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(replace, range(4)))  # raises the error of a thread
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
    with pytest.raises(
        UserError, match=r"record\.json cannot be read or written \(broken disk\): check the disk"
    ):
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


def test_a_folder_that_is_deleted_meanwhile_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer of the folder, whose parent is deleted before it has created its temporary, or after."""
    gone = r"out was removed or changed while a was written: start again"
    usual = disk.sweep

    def deleted(folder: Path, name: str | None = None) -> None:
        usual(folder, name)
        shutil.rmtree(folder)

    monkeypatch.setattr(disk, "sweep", deleted)
    with pytest.raises(UserError, match=gone):
        atomic_write(tmp_path / "out" / "a", "x")
    with pytest.raises(UserError, match=gone), whole_folder(tmp_path / "out" / "a"):
        pytest.fail("there is no folder to write into")
    monkeypatch.undo()
    with pytest.raises(UserError, match=gone), whole_folder(tmp_path / "out" / "a") as folder:
        shutil.rmtree(tmp_path / "out")
        (folder / "x").write_text("1")
    with pytest.raises(UserError, match=gone), whole_folder(tmp_path / "out" / "a"):
        shutil.rmtree(tmp_path / "out")


def test_a_missing_file_of_the_caller_keeps_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), whole_folder(tmp_path / "a"):
        (tmp_path / "other").read_text()


def test_a_link_or_a_file_at_the_place_of_a_folder_is_refused_and_left(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (target / "x").write_text("old")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    before = names(tmp_path)
    for _ in range(2):
        for name, why in (("link", "symbolic link"), ("dangling", "symbolic link"), ("file", "not a folder")):
            with (
                pytest.raises(UserError, match=f"{name} is {'a ' if 'link' in why else ''}{why}"),
                whole_folder(tmp_path / name, replace=True),
            ):
                pytest.fail("nothing may be computed")
        with pytest.raises(UserError, match="symbolic link"):
            remove_folder(tmp_path / "link")
    assert names(tmp_path) == before and (target / "x").read_text() == "old"
    assert (tmp_path / "file").read_text() == "mine"


def test_the_folder_above_may_be_a_link_and_a_linked_file_is_replaced_without_its_target(
    tmp_path: Path,
) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "big")
    for content in ("one", "two"):
        with whole_folder(tmp_path / "out" / "dataset", replace=True) as folder:
            (folder / "x").write_text(content)
    assert (tmp_path / "big/dataset/x").read_text() == "two" and names(tmp_path / "big") == ["dataset"]
    (tmp_path / "secret").write_text("keep")
    (tmp_path / "big/latest.json").symlink_to(tmp_path / "secret")
    atomic_write(tmp_path / "big/latest.json", "new")
    assert (tmp_path / "secret").read_text() == "keep"
    assert (tmp_path / "big/latest.json").read_text() == "new"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (
            errno.EROFS,
            r"x cannot be read or written \(Read-only file system\): make it accessible and writable",
        ),
        (errno.EACCES, r"x cannot be read or written \(Permission denied\): make it accessible and writable"),
        (errno.EIO, r"x cannot be read or written \(Input/output error\): check the disk"),
        (errno.EDQUOT, r"The disk is full: .* needs at least 1 bytes"),
    ],
)
@pytest.mark.parametrize("call", ["open", "mkdir", "rename"])
def test_a_disk_that_refuses_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, sentence: str
) -> None:
    def refuse(path: object, *_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code), str(tmp_path / "x"))

    writers = [lambda: atomic_write(tmp_path / "x", "1"), lambda: whole_folder(tmp_path / "x").__enter__()]
    if call == "mkdir":
        writers = writers[1:]
    if call == "rename":
        writers = writers[:1]
    for write in writers:
        with monkeypatch.context() as patch:
            patch.setattr(Path if call == "mkdir" else os, call, refuse)
            with pytest.raises(UserError, match=sentence):
                write()


def test_a_disk_without_inodes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    real = os.statvfs(tmp_path)
    values = list(real)
    values[7] = 0  # f_favail
    monkeypatch.setattr(disk, "_open_new_file", refuse)
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(values))
    with pytest.raises(UserError, match=r"The disk has no free inodes: .*/x cannot be created; delete some"):
        atomic_write(tmp_path / "x", "1")


def test_foreign_entries_with_the_name_of_a_temporary_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / ".tmp-a-0123456789ab").symlink_to(tmp_path / "target")
    (tmp_path / ".old-a-0123456789ab").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / ".tmp-a-0123456789ac")  # opening it would block for ever
    (tmp_path / os.fsdecode(b".tmp-a\xff-0123456789ab")).mkdir()
    with whole_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
    sweep(tmp_path)
    left = names(tmp_path)
    assert {"a", "target", ".tmp-a-0123456789ab", ".old-a-0123456789ab"} <= set(left)
    assert os.fsdecode(b".tmp-a\xff-0123456789ab") not in left


def test_a_folder_can_be_removed_twice(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_folder(tmp_path / "a")
    remove_folder(tmp_path / "a")
    assert names(tmp_path) == []
