"""An incomplete checkpoint is recognised from file names, config.json and headers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.config import PROJECT_ROOT
from tasks.llm.checkpoint_files import INDEX, checkpoint_problem

WEIGHTS = "model.safetensors"


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1])


def drop_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def index(*names: str) -> Callable[[Path], None]:
    weight_map = {f"tensor {number}": name for number, name in enumerate(names)}
    return lambda folder: _written(folder / INDEX, json.dumps({"weight_map": weight_map}))


def _written(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(PROJECT_ROOT / "pocket/teacher", tmp_path / "model")


def test_a_complete_checkpoint_has_no_problem_whatever_its_file_layout(folder: Path) -> None:
    assert checkpoint_problem(folder, 2048) is None
    index(WEIGHTS, WEIGHTS)(folder)
    assert checkpoint_problem(folder, 2048) is None


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (truncate, "model.safetensors is truncated"),
        (lambda folder: _written(folder / WEIGHTS, "no safetensors"), "model.safetensors is truncated or not"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"has no \*.safetensors weights"),
        (index(WEIGHTS, "model-2.safetensors"), "model-2.safetensors is missing"),
        (lambda folder: _written(folder / INDEX, "{}"), r"has no \*.safetensors weights"),
        (lambda folder: _written(folder / "config.json", "[]"), "config.json is not a JSON object"),
        (drop_tokenizer, "has no tokenizer"),
        (lambda folder: change_config(folder, max_position_embeddings=2047), "max_model_len is 2,048, but .* ends at 2,047"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_checkpoint_is_named(
    folder: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(folder)
    found = checkpoint_problem(folder, 2048)
    assert found is not None and re.search(sentence, found), found


def test_a_scaled_context_may_be_longer_than_the_trained_one(folder: Path) -> None:
    change_config(folder, max_position_embeddings=1024, rope_scaling={"rope_type": "yarn", "factor": 4.0})
    assert checkpoint_problem(folder, 2048) is None
