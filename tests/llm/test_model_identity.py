"""The identity of a local model depends on its files; that of a hub model is its id and revision."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.llm.model_identity import model_identity

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
         "model-1.safetensors", "model-2.safetensors")  # fmt: skip


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(f"content of {name}")
    return folder


def test_the_same_files_have_the_same_identity_in_any_location(tmp_path: Path) -> None:
    first, second = model(tmp_path / "a" / "teacher"), model(tmp_path / "b" / "teacher")
    (second / "README.md").write_text("not part of the model")
    identity = model_identity("a/teacher", None, tmp_path)
    assert (
        identity
        == model_identity(str(second), "any", tmp_path)
        == model_identity("./b/teacher", None, tmp_path)
    )
    assert identity.startswith("teacher:") and len(identity) == len("teacher:") + 16
    assert first != second


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_the_model_affects_its_identity(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "m")
    before = model_identity(str(folder), None, tmp_path)
    (folder / name).write_text("another content")
    changed = model_identity(str(folder), None, tmp_path)
    assert changed != before
    if name != "config.json":
        (folder / name).unlink()
        assert model_identity(str(folder), None, tmp_path) not in (before, changed)


def test_swapping_the_contents_of_two_files_changes_the_identity(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    before = model_identity(str(folder), None, tmp_path)
    first, second = folder / "model-1.safetensors", folder / "model-2.safetensors"
    contents = first.read_text(), second.read_text()
    second.write_text(contents[0])
    first.write_text(contents[1])
    assert model_identity(str(folder), None, tmp_path) != before


def test_the_identity_of_a_hub_model_is_its_id_and_revision(tmp_path: Path) -> None:
    assert model_identity("Qwen/Qwen3-1.7B", None, tmp_path) == "Qwen/Qwen3-1.7B@main"
    assert model_identity("Qwen/Qwen3-1.7B", "abc123", tmp_path) == "Qwen/Qwen3-1.7B@abc123"
    assert model_identity("gpt-4o", None, tmp_path) == "gpt-4o@main"


def test_a_missing_folder_or_one_without_a_model_is_a_user_error(tmp_path: Path) -> None:
    folder = model(tmp_path / "pocket" / "teacher")
    for missing in ("pocket/student", "./other", "/nowhere/at/all"):
        with pytest.raises(UserError, match=r"Model folder /.* does not exist: correct the model setting"):
            model_identity(missing, None, tmp_path)
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        model_identity("too/many/parts", None, tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"contains no config\.json"):
        model_identity("pocket/teacher", None, tmp_path)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(UserError, match=r"contains no \*\.safetensors weights"):
        model_identity("pocket/teacher", None, tmp_path)
