"""Checkpoint folders: whole ones are read as transformers reads them, broken and mismatched ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.config import PROJECT_ROOT
from tasks.core.errors import UserError
from tasks.io.tokenizer_identity import tokenizer_identity
from tests.training.small_run import copy_model
from training.model_files import (
    WEIGHTS,
    ModelFiles,
    context_problems,
    encode_prompts,
    open_model,
    pair_problems,
    shared_vocabulary,
    top_k_problems,
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_model("student", tmp_path / "student")


def edit(path: Path, change: Callable[[dict], object]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def pocket(role: str = "teacher") -> ModelFiles:
    return open_model(role, "pocket/teacher")


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "Qwen2Tokenizer"])
def test_the_tokenizer_is_the_one_that_the_dataset_names(copy: Path, kind: str) -> None:
    edit(copy / "tokenizer_config.json", lambda data: data.update(tokenizer_class=kind))
    assert open_model("student", str(copy)).identity == tokenizer_identity(str(copy), None, PROJECT_ROOT)


def test_prompts_are_encoded_like_one_text_after_the_other(copy: Path) -> None:
    model = open_model("student", str(copy))
    texts = ["What is 2 + 2?", "Solve x + 1 = 3 for x. What is x?"]
    together = encode_prompts(model, texts, thinking=False)
    assert together == [encode_prompts(model, [text], thinking=False)[0] for text in texts]
    thinking = encode_prompts(model, texts, thinking=True)
    closed = tuple(model.tokenizer.encode("<think>\n\n</think>\n\n", add_special_tokens=False))
    assert [ids + closed for ids in thinking] == together
    assert encode_prompts(model, [], thinking=False) == []


def test_the_pocket_pair_fits_together() -> None:
    student, teacher = open_model("student", "pocket/student"), pocket()
    assert pair_problems(student, teacher, thinking=False) == []
    assert shared_vocabulary(student, teacher) == 2048
    assert context_problems(student, teacher, 2048) == []
    assert top_k_problems(student, teacher, 2048) == top_k_problems(student, teacher, "full") == []
    (problem,) = top_k_problems(student, teacher, 2049)
    assert problem.startswith("objective.top_k is 2,049 and the models share 2,048 tokens")


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-2])


def pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8"
    )


def index_without_part(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}),
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), "lacks config.json"),
        (remove(WEIGHTS), "holds no model.safetensors"),
        (remove("tokenizer_config.json"), "lacks tokenizer_config.json"),
        (remove("tokenizer.json"), "the tokenizer in .* cannot be loaded"),
        (remove("chat_template.jinja"), "has no chat template"),
        (cut, "has 3,447,838 bytes instead of 3,447,840: fetch the weights again"),
        (pointer, "is no safetensors file: fetch the weights again"),
        (index_without_part, "model-00002-of-00002.safetensors is missing"),
        (
            lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"),
            "config.json cannot be read",
        ),
        (
            lambda folder: (folder / "config.json").write_text("[]", encoding="utf-8"),
            "config.json holds no object",
        ),
        (
            lambda folder: edit(folder / "config.json", lambda data: data.pop("vocab_size")),
            "no usable vocab_size",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(
    copy: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(copy)
    with pytest.raises(UserError, match=f"student.model: .*{message}"):
        open_model("student", str(copy))


def test_a_missing_folder_is_named_with_its_setting() -> None:
    with pytest.raises(UserError, match=r"teacher.model: there is no checkpoint folder .*/pocket/nobody"):
        open_model("teacher", "pocket/nobody")


def test_a_token_with_another_number_is_a_different_vocabulary(copy: Path) -> None:
    def swap(data: dict) -> None:
        vocab = data["model"]["vocab"]
        first, second = [token for token in vocab if len(token) > 1][:2]
        vocab[first], vocab[second] = vocab[second], vocab[first]

    edit(copy / "tokenizer.json", swap)
    (problem,) = pair_problems(open_model("student", str(copy)), pocket(), thinking=False)
    assert "different vocabularies" in problem and "2 tokens differ" in problem


def test_the_same_tokens_under_other_rules_cut_a_text_differently(copy: Path) -> None:
    edit(copy / "tokenizer.json", lambda data: data["model"].update(merges=data["model"]["merges"][:50]))
    (problem,) = pair_problems(open_model("student", str(copy)), pocket(), thinking=False)
    assert "cut a text differently" in problem


def test_another_chat_template_is_refused(copy: Path) -> None:
    path = copy / "chat_template.jinja"
    path.write_text(
        path.read_text(encoding="utf-8").replace("assistant\\n", "assistant:\\n"), encoding="utf-8"
    )
    (problem,) = pair_problems(open_model("student", str(copy)), pocket(), thinking=False)
    assert "different prompts" in problem and str(copy) in problem


def test_a_padded_embedding_is_cut_and_a_short_one_refused(copy: Path) -> None:
    edit(copy / "config.json", lambda data: data.update(vocab_size=2176))
    padded = open_model("student", str(copy))
    assert pair_problems(padded, pocket(), thinking=False) == []
    assert shared_vocabulary(padded, pocket()) == 2048
    edit(copy / "config.json", lambda data: data.update(vocab_size=1990))
    (problem,) = pair_problems(open_model("student", str(copy)), pocket(), thinking=False)
    assert "the student's tokenizer has" in problem and "its embedding only 1,990" in problem


def test_sequences_beyond_the_context_are_refused_for_the_model_that_is_too_short(copy: Path) -> None:
    edit(copy / "config.json", lambda data: data.update(max_position_embeddings=512))
    (problem,) = context_problems(open_model("student", str(copy)), pocket(), 704)
    assert (
        problem.startswith("a sequence may have 704 tokens")
        and "the student's context ends at 512" in problem
    )
