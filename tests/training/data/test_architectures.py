"""Architectures: tensors and parameters as in transformers, and a sentence for each model that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tests.tiny_decoders import DECODERS, TinyDecoder, tiny_config, write_tiny_decoder
from tests.training.small_run import copy_model, edit
from training.data.architectures import ARCHITECTURES, refusal
from training.data.model_files import encode_prompts, open_model
from training.preflight.model_checks import pair_problems, shared_vocabulary, tensor_problems
from training.preflight.shapes import count_parameters, model_tensors, read_dimensions

DENSE = [name for name in ARCHITECTURES if name != "qwen3_moe"]
BIASED = [("llama", "attention_bias"), ("llama", "mlp_bias"), ("olmo2", "attention_bias"), ("olmo3", "attention_bias"),
          ("qwen3", "attention_bias"), ("mistral", "attention_bias"), ("qwen2", "attention_bias")]  # fmt: skip


def built(model_type: str, **changes: Any) -> Any:
    """Return a model of transformers without values."""
    import torch
    from transformers import AutoModelForCausalLM

    kind = TinyDecoder(model_type=model_type, special=(), template="")
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(tiny_config(kind, **changes))


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        *((name, {"tie_word_embeddings": tied}) for name in DENSE for tied in (True, False)),
        *((name, {flag: True}) for name, flag in BIASED),
        ("llama", {"num_key_value_heads": None, "head_dim": None}),
    ],
)
def test_tensors_and_parameters_are_those_of_transformers(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    model = built(model_type, **changes)
    model.config.save_pretrained(tmp_path)
    dims = read_dimensions(tmp_path)
    tensors = {name: tuple(value.shape) for name, value in model.named_parameters()}  # tied ones once
    assert dict(model_tensors(dims)) == tensors
    assert count_parameters(dims) == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("name", DECODERS)
def test_a_saved_decoder_is_accepted(tmp_path: Path, name: str) -> None:
    files = open_model("student", str(write_tiny_decoder(tmp_path / "model", name)))
    assert tensor_problems(files, read_dimensions(files.folder)) == []


CONFIG = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "granite"}, "model_type 'granite' is not supported: use one of llama, mistral, olmo2, olmo3, qwen2, "),
        ({"model_type": None}, "model_type None is not supported"),
        ({"model_type": ["qwen3"]}, "model_type ['qwen3'] is not supported"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "(model_type 't5') is an encoder-decoder: use a decoder-only model"),
        (
            {"model_type": "gemma3", "text_config": {}, "vision_config": {}},
            "(model_type 'gemma3') is multimodal, since it has text_config: use a text model",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "the weights are quantised (quantization_config): use"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "a Qwen3ForSequenceClassification, which has no LM head"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type 'dynamic' depend on the other sequences of a batch"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "type 'longrope'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}, "sliding_attention": None}}, "type 'dynamic'"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    refused = refusal(CONFIG | config)
    assert refused is not None and sentence in refused and "\n" not in refused
    copy = copy_model("student", tmp_path / "student")
    edit(copy / "config.json", lambda data: data.update(config))
    for check in (lambda: open_model("student", str(copy)), lambda: read_dimensions(copy)):
        with pytest.raises(UserError) as error:
            check()
        assert refused in str(error.value) and str(copy / "config.json") in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"architectures": None, "rope_scaling": None},
        {"rope_scaling": {"rope_type": "llama3", "factor": 32.0}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"rope_theta": 1e6}},
        {"rope_parameters": {"full_attention": {"rope_type": "yarn"}, "sliding_attention": {"rope_type": "default"}}},
        {"quantization_config": None, "is_encoder_decoder": False, "text_config": None},
    ],
)  # fmt: skip
def test_rotary_embeddings_that_do_not_depend_on_the_batch_are_accepted(config: dict[str, Any]) -> None:
    assert refusal(CONFIG | config) is None


def test_a_list_of_architectures_is_needed_because_tensors_do_not_tell_them_apart() -> None:
    granite = built("granite", logits_scaling=8.0)
    llama = {name: value.shape for name, value in built("llama").named_parameters()}
    assert {name: value.shape for name, value in granite.named_parameters()} == llama
    assert granite.config.logits_scaling == 8.0


# --- pairs -------------------------------------------------------------------------------------------------------


def test_different_vocabularies_are_refused_with_the_ids_that_differ(tmp_path: Path) -> None:
    student, teacher = (
        open_model(role, str(write_tiny_decoder(tmp_path / role, name)))
        for role, name in (("student", "qwen2"), ("teacher", "mistral"))
    )
    ours, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    differing = sum(ours.get(token) != theirs.get(token) for token in ours.keys() | theirs.keys())
    (problem,) = pair_problems(student, teacher, thinking=False)
    assert problem == (
        f"student and teacher have different vocabularies, {differing} tokens differ ('<unk>' has id none in the student and 0 in"
        " the teacher; '<|endoftext|>' has id 0 in the student and none in the teacher; '<s>' has id none in the student and 1 in"
        " the teacher; ...): choose a pair with the same tokenizer"
    )


def test_a_padded_teacher_is_cut_to_the_rows_of_the_student(tmp_path: Path) -> None:
    student = open_model("student", str(write_tiny_decoder(tmp_path / "student", "deepseek")))
    teacher = open_model(
        "teacher", str(write_tiny_decoder(tmp_path / "teacher", "deepseek", rows=576, seed=1))
    )
    assert pair_problems(student, teacher, thinking=True) == []
    assert shared_vocabulary(student, teacher) == 512


# --- prompts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "opens"), [("deepseek", True), ("olmo3", True), ("qwen3", False), ("qwen2", False)]
)
def test_thinking_is_closed_where_a_template_ignores_the_switch(
    tmp_path: Path, name: str, opens: bool
) -> None:
    model = open_model("student", str(write_tiny_decoder(tmp_path / "model", name)))

    def text(thinking: bool) -> str:
        (ids,) = encode_prompts(model, ["What is <think>?"], thinking=thinking)
        return model.tokenizer.decode(ids, skip_special_tokens=False)

    assert text(True).rstrip().endswith("<think>") == opens
    if name == "qwen2":
        assert text(True) == text(False), "a template without thinking stays as it is"
        return
    assert text(False).endswith("<think>\n\n</think>\n\n") and text(False).count("</think>") == 1


def test_a_published_deepseek_tokenizer_needs_another_class(tmp_path: Path) -> None:
    folder = write_tiny_decoder(tmp_path / "model", "deepseek")
    edit(folder / "tokenizer_config.json", lambda data: data.update(tokenizer_class="LlamaTokenizerFast"))
    with pytest.raises(
        UserError, match=r"set tokenizer_class to PreTrainedTokenizerFast in its tokenizer_conf"
    ):
        open_model("student", str(folder))
    edit(
        folder / "tokenizer_config.json", lambda data: data.update(tokenizer_class="PreTrainedTokenizerFast")
    )
    assert open_model("student", str(folder)).tokenizer.decode([*range(5, 9)])


def test_configs_are_read_as_transformers_saves_them(tmp_path: Path) -> None:
    for name, kind in DECODERS.items():
        tiny_config(kind).save_pretrained(tmp_path)
        values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        assert refusal(values) is None, name
