"""An output folder belongs to the run that made it; another kind of run refuses it in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.storage.ownership import BUILD, annotation_of, check_owner, claim

MINE, OTHER = annotation_of("mine"), annotation_of("other")


def test_a_folder_is_claimed_once_and_only_its_owner_continues(tmp_path: Path) -> None:
    for first, strangers in [(MINE, (BUILD, OTHER)), (BUILD, (MINE,))]:
        root = tmp_path / first.kind
        claim(root, first)
        (root / "dataset").mkdir()
        claim(root, first)
        before = sorted(path.name for path in root.iterdir())
        for stranger in strangers:
            for refuse in (check_owner, claim):
                with pytest.raises(
                    UserError, match=f"was made by {first}, and {stranger} would overwrite them: choose"
                ):
                    refuse(root, stranger)
        assert sorted(path.name for path in root.iterdir()) == before == ["dataset", "owner.json"]


@pytest.mark.parametrize(
    ("files", "annotate", "build"),
    [
        ([], True, True),
        (["run.lock"], True, True),  # a run that was killed before it claimed the folder
        (["annotation.lock"], True, True),  # the same, by an earlier version
        (["plan.json"], False, True),
        (["config.json", "dataset"], False, True),  # a build before there was owner.json
        (["dataset"], False, False),
        (["thesis.tex"], False, True),
    ],
)
def test_a_folder_without_an_owner(tmp_path: Path, files: list[str], annotate: bool, build: bool) -> None:
    for name in files:
        (tmp_path / name).touch()
    for owner, allowed in ((MINE, annotate), (BUILD, build)):
        if allowed:
            check_owner(tmp_path, owner)
        else:
            with pytest.raises(UserError, match="choose another output folder"):
                check_owner(tmp_path, owner)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize("record", [b"{", b"\xff", b"[]", b"3", b'{"kind": "annotate"}'])
def test_a_damaged_record_of_the_owner_is_one_sentence_and_overwrites_nothing(
    tmp_path: Path, record: bytes
) -> None:
    (tmp_path / "owner.json").write_bytes(record)
    for owner in (BUILD, MINE):
        with pytest.raises(
            UserError, match=rf'owner\.json is damaged: if {owner} .*write {{"kind": "{owner.kind}"'
        ):
            claim(tmp_path, owner)
    assert (tmp_path / "owner.json").read_bytes() == record


def test_a_missing_folder_is_free(tmp_path: Path) -> None:
    check_owner(tmp_path / "new", MINE)
    assert not (tmp_path / "new").exists()
