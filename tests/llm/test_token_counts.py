"""Tokens are counted with the model's tokenizer if it is available locally; nothing is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.llm.token_counts import token_counter

TEXTS = ["What is 17 + 25?", "", "Naïve <|im_end|> text"]


def test_the_counts_are_those_of_the_models_tokenizer() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(PROJECT_ROOT / "pocket/teacher/tokenizer.json"))
    counter = token_counter("pocket/teacher", None, PROJECT_ROOT)
    assert counter is not None
    assert counter(TEXTS) == [len(tokenizer.encode(text).ids) for text in TEXTS]
    assert counter([]) == [] and counter([""]) == [0]


def test_a_hub_model_that_is_not_cached_has_no_counter() -> None:
    assert token_counter("Nobody/Nothing-1B", None, PROJECT_ROOT) is None
    assert token_counter("Nobody/Nothing-1B", "0" * 40, PROJECT_ROOT) is None


def test_a_cached_hub_model_has_a_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--Some--Model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    shutil.copy(PROJECT_ROOT / "pocket/teacher/tokenizer.json", snapshot)
    (tmp_path / "models--Some--Model" / "refs").mkdir()
    (tmp_path / "models--Some--Model" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    here = token_counter("Some/Model", None, PROJECT_ROOT)
    pocket = token_counter("pocket/teacher", None, PROJECT_ROOT)
    assert here is not None and pocket is not None and here(TEXTS) == pocket(TEXTS)


def test_a_folder_without_a_tokenizer_has_no_counter_and_a_damaged_one_is_reported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert token_counter(str(tmp_path), None, PROJECT_ROOT) is None
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json is not a readable tokenizer"):
        token_counter(str(tmp_path), None, PROJECT_ROOT)
    with pytest.raises(UserError, match="does not exist"):
        token_counter("pocket/nobody", None, PROJECT_ROOT)
