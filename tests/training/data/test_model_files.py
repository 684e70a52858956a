"""Checkpoint folders: complete ones are read as transformers reads them, broken and mismatched ones are rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.llm.tokenizer_identity import tokenizer_identity
from tests.training.small_run import Tensors, copy_model, edit, edit_weights, pad_embedding
from training.data.model_files import WEIGHTS, ModelFiles, encode_prompts, open_model
from training.preflight.model_checks import (
    context_problems,
    pair_problems,
    shared_vocabulary,
    tensor_problems,
    top_k_problems,
)
from training.preflight.shapes import read_dimensions


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_model("student", tmp_path / "student")


def pocket(role: str = "teacher") -> ModelFiles:
    return open_model(role, "pocket/teacher")


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "Qwen2Tokenizer"])
def test_the_tokenizer_identity_matches_the_datasets(copy: Path, kind: str) -> None:
    edit(copy / "tokenizer_config.json", lambda data: data.update(tokenizer_class=kind))
    assert open_model("student", str(copy)).identity == tokenizer_identity(str(copy), None, PROJECT_ROOT)


def test_a_batch_of_prompts_is_encoded_like_single_prompts(copy: Path) -> None:
    model = open_model("student", str(copy))
    texts = ["What is 2 + 2?", "Solve x + 1 = 3 for x. What is x?"]
    together = encode_prompts(model, texts, thinking=False)
    assert together == [encode_prompts(model, [text], thinking=False)[0] for text in texts]
    thinking = encode_prompts(model, texts, thinking=True)
    closed = tuple(model.tokenizer.encode("<think>\n\n</think>\n\n", add_special_tokens=False))
    assert [ids + closed for ids in thinking] == together
    assert encode_prompts(model, [], thinking=False) == []


def test_the_pocket_models_are_compatible() -> None:
    student, teacher = open_model("student", "pocket/student"), pocket()
    assert pair_problems(student, teacher, thinking=False) == []
    assert shared_vocabulary(student, teacher) == 2048
    assert context_problems(student, 2048) == context_problems(teacher, 2048) == []
    assert top_k_problems(student, teacher, 2048) == top_k_problems(student, teacher, None) == []
    assert shared_vocabulary(student) == 2048
    (problem,) = top_k_problems(student, teacher, 2049)
    assert problem.startswith("algorithm.top_k is 2,049, but the models share only 2,048 tokens")


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
        (remove("config.json"), "has no config.json"),
        (remove(WEIGHTS), "has neither model.safetensors nor model.safetensors.index.json"),
        (remove("tokenizer_config.json"), "has no tokenizer_config.json"),
        (remove("tokenizer.json"), "the tokenizer in .* cannot be loaded"),
        (remove("chat_template.jinja"), "has no chat template"),
        (cut, r"is not a complete safetensors file \(.*file not fully covered\): download the weights again"),
        (pointer, r"is not a complete safetensors file \(header too large\): download the weights again"),
        (index_without_part, "model-00002-of-00002.safetensors is missing"),
        (
            lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"),
            "config.json cannot be read",
        ),
        (
            lambda folder: (folder / "config.json").write_text("[]", encoding="utf-8"),
            "config.json is not a JSON object",
        ),
        (
            lambda folder: (folder / "config.json").write_text("[" * 100_000, encoding="utf-8"),
            "config.json cannot be read",
        ),
        (
            lambda folder: edit(folder / "config.json", lambda data: data.pop("vocab_size")),
            "has no valid vocab_size",
        ),
    ],
)
def test_an_incomplete_checkpoint_is_rejected(
    copy: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(copy)
    with pytest.raises(UserError, match=f"student.model: .*{message}"):
        open_model("student", str(copy))


def test_a_missing_folder_is_reported_with_its_setting() -> None:
    with pytest.raises(UserError, match=r"teacher.model: checkpoint folder .*/pocket/nobody does not exist"):
        open_model("teacher", "pocket/nobody")


def test_a_token_with_another_id_makes_a_different_vocabulary(copy: Path) -> None:
    def swap(data: dict) -> None:
        vocab = data["model"]["vocab"]
        first, second = [token for token in vocab if len(token) > 1][:2]
        vocab[first], vocab[second] = vocab[second], vocab[first]

    edit(copy / "tokenizer.json", swap)
    (problem,) = pair_problems(open_model("student", str(copy)), pocket(), thinking=False)
    assert "different vocabularies" in problem and "2 tokens differ" in problem


def test_the_same_tokens_with_other_merges_are_rejected(copy: Path) -> None:
    edit(copy / "tokenizer.json", lambda data: data["model"].update(merges=data["model"]["merges"][:50]))
    (problem,) = pair_problems(open_model("student", str(copy)), pocket(), thinking=False)
    assert "tokenize text differently" in problem


def test_a_different_chat_template_is_rejected(copy: Path) -> None:
    path = copy / "chat_template.jinja"
    path.write_text(
        path.read_text(encoding="utf-8").replace("assistant\\n", "assistant:\\n"), encoding="utf-8"
    )
    (problem,) = pair_problems(open_model("student", str(copy)), pocket(), thinking=False)
    assert "different prompts" in problem and str(copy) in problem


def test_a_padded_teacher_embedding_is_cut_and_a_short_one_rejected(tmp_path: Path, copy: Path) -> None:
    teacher = open_model("teacher", str(pad_embedding(copy_model("teacher", tmp_path / "teacher"), 2176)))
    student = open_model("student", str(copy))
    assert pair_problems(student, teacher, thinking=False) == []
    assert shared_vocabulary(student, teacher) == 2048
    edit(copy / "config.json", lambda data: data.update(vocab_size=1990))
    (problem,) = pair_problems(open_model("student", str(copy)), pocket(), thinking=False)
    assert "the student's tokenizer has" in problem and "its embedding only 1,990" in problem


def test_a_student_with_ids_beyond_the_teachers_is_rejected(copy: Path) -> None:
    student = open_model("student", str(pad_embedding(copy, 2176)))
    (problem,) = pair_problems(student, pocket(), thinking=False)
    assert problem.startswith("the student's embedding has 2,176 rows, 128 more than the teacher's")
    assert "cut the student's embedding (and vocab_size) to the teacher's size" in problem


def test_a_model_without_an_end_token_is_rejected(copy: Path) -> None:
    edit(copy / "tokenizer_config.json", lambda data: data.pop("eos_token"))
    edit(copy / "generation_config.json", lambda data: data.pop("eos_token_id"))
    (problem,) = pair_problems(open_model("student", str(copy)), pocket(), thinking=False)
    assert problem == (
        f"student.model: {copy} has no end token: set eos_token in its tokenizer_config.json, or use a checkpoint that has one"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "fails (TemplateSyntaxError: "),
        ("{{ raise_exception('no such turn') }}", "fails (TemplateError: no such turn): fix it"),
        ("{{ messages[7].content.x }}", "fails (UndefinedError: "),
        ("{{ 1 / 0 }}", "fails (ZeroDivisionError: "),
        ("{# nothing #}", "gives an empty prompt for a problem: fix it"),
    ],
)
def test_an_unusable_template_is_reported_in_one_sentence(copy: Path, template: str, message: str) -> None:
    (copy / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        encode_prompts(open_model("student", str(copy)), ["What is 1 + 1?"], thinking=False)
    reported = str(refused.value)
    assert reported.startswith(f"student.model: the chat template of {copy} ") and message in reported
    assert "\n" not in reported


def of_shape(name: str, shape: list[int]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: (shape, tensors[name][1])})


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        (None, {"tie_word_embeddings": False}, "has no tensor lm_head.weight, so weights and config.json belong to different"),
        (None, {"num_hidden_layers": 4}, "has no tensor model.layers.3.input_layernorm.weight"),
        (None, {"num_hidden_layers": 2}, "has a tensor model.layers.2.input_layernorm.weight that does not exist in"),
        (
            None, {"hidden_size": 128},
            "has model.embed_tokens.weight of shape [2048, 192], but its config.json requires [2048, 128]",
        ),
        (None, {"num_key_value_heads": 1}, "k_proj.weight of shape [192, 192], but its config.json requires [64, 192]"),
        (None, {"attention_bias": True}, "has no tensor model.layers.0.self_attn.q_proj.bias"),
        (None, {"model_type": "qwen2"}, "has no tensor model.layers.0.self_attn.q_proj.bias"),
        (lambda tensors: tensors.pop("model.norm.weight"), {}, "has no tensor model.norm.weight"),
        (of_shape("model.layers.1.mlp.up_proj.weight", [256, 384]), {}, "up_proj.weight of shape [256, 384]"),
        (lambda tensors: tensors.update(x=([1], b"\0\0")), {}, "has a tensor x that does not exist in a model of its config"),
    ],
)  # fmt: skip
def test_weights_that_do_not_match_the_configuration_are_rejected(
    copy: Path, weights: Callable[[Tensors], object] | None, config: dict[str, object], message: str
) -> None:
    if weights is not None:
        edit_weights(copy, weights)
    edit(copy / "config.json", lambda data: data.update(config))
    (problem,) = tensor_problems(open_model("student", str(copy)), read_dimensions(copy))
    assert problem.startswith(f"student.model: {copy} has ") and message in problem


def test_complete_checkpoints_pass_and_may_include_a_tied_head(copy: Path) -> None:
    assert tensor_problems(pocket(), read_dimensions(PROJECT_ROOT / "pocket/teacher")) == []
    edit_weights(
        copy, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]})
    )
    assert tensor_problems(open_model("student", str(copy)), read_dimensions(copy)) == []


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_the_expected_tensors_are_those_that_transformers_saves(
    copy: Path, kind: str, tied: bool, biased: bool
) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 2048, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "tie_word_embeddings": tied, "max_position_embeddings": 64,
    }  # fmt: skip
    model: Any = (
        Qwen2ForCausalLM(Qwen2Config(**sizes))
        if kind == "qwen2"
        else Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8, attention_bias=biased))
    )
    model.save_pretrained(copy, max_shard_size="40KB")  # in parts, with an index
    (copy / WEIGHTS).unlink()
    assert tensor_problems(open_model("student", str(copy)), read_dimensions(copy)) == []


def test_sequences_longer_than_a_models_context_are_rejected(copy: Path) -> None:
    edit(copy / "config.json", lambda data: data.update(max_position_embeddings=512))
    (problem,) = context_problems(open_model("student", str(copy)), 704)
    assert (
        problem.startswith("a sequence may have 704 tokens")
        and "the student's context ends at 512" in problem
    )
