"""A mixture of experts as the teacher: parameters and tensors as in transformers, memory by hand, refusal as a student."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.errors import UserError
from tests.tiny_model import write_tiny_experts, write_tiny_model
from tests.training.preflight.test_memory import LARGE, SMALL, node, parts_of
from tests.training.small_run import example, small_run, write_small_dataset
from training.data.model_files import open_model
from training.plan import resolve
from training.preflight.check import Inspection, inspect, report
from training.preflight.memory import memory_plan, student_parts, teacher_parts
from training.preflight.model_checks import tensor_problems
from training.preflight.shapes import (
    Experts,
    ModelDimensions,
    count_active,
    count_parameters,
    read_dimensions,
)

# Dimensions from the config.json of Qwen/Qwen3-30B-A3B.
LARGEST = ModelDimensions(
    kind="qwen3_moe", hidden=2048, layers=48, heads=32, kv_heads=4, head_dim=128, intermediate=6144, vocab=151_936,
    tied=False, attention_bias=False, experts=Experts(count=128, per_token=8, intermediate=768),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_experts(tmp_path_factory.mktemp("teacher") / "experts")


def test_parameter_counts_equal_those_of_transformers_and_the_published_ones(tmp_path: Path) -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes: dict[str, Any] = {
        "num_hidden_layers": 48,
        "head_dim": 128,
    }  # the other defaults are those of 30B-A3B
    config = Qwen3MoeConfig(**sizes)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = Qwen3MoeForCausalLM(config)
    dims = read_dimensions(tmp_path)
    assert dims == LARGEST
    assert count_parameters(dims) == sum(p.numel() for p in model.parameters()) == 30_532_122_624
    # 120 of 128 experts of three matrices of 2,048 x 768 are idle in each of 48 layers
    assert count_active(dims) == 30_532_122_624 - 48 * 120 * 3 * 2048 * 768 == 3_353_032_704
    assert count_active(SMALL) == count_parameters(SMALL)


@pytest.mark.parametrize("bias", [False, True])
def test_a_tiny_model_has_the_parameters_of_transformers(tmp_path: Path, bias: bool) -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "attention_bias": bias,
        "tie_word_embeddings": bias,
    }  # fmt: skip
    config = Qwen3MoeConfig(**sizes)
    model: Any = Qwen3MoeForCausalLM(config)
    config.save_pretrained(tmp_path)
    dims = read_dimensions(tmp_path)
    assert dims.experts == Experts(count=6, per_token=2, intermediate=24)
    assert count_parameters(dims) == sum(p.numel() for p in model.parameters())
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    published = {"num_experts" if key == "num_local_experts" else key: value for key, value in saved.items()}
    assert published.keys() != saved.keys()
    (tmp_path / "config.json").write_text(json.dumps(published))
    assert read_dimensions(tmp_path) == dims, "the name of published checkpoints"


def test_the_tensors_of_a_saved_checkpoint_are_the_expected_ones(folder: Path) -> None:
    files, dims = open_model("teacher", str(folder)), read_dimensions(folder)
    assert sum(torch.Size(size).numel() for size in files.tensors.values()) == count_parameters(dims)
    assert tensor_problems(files, dims) == []
    for changed, named in (
        (Experts(count=5, per_token=2, intermediate=48), "model.layers.0.mlp.gate.weight of shape [4, 64]"),
        (Experts(count=4, per_token=2, intermediate=32), "experts.0.gate_proj.weight of shape [48, 64]"),
    ):
        (problem,) = tensor_problems(files, replace(dims, experts=changed))
        assert named in problem
    (problem,) = tensor_problems(files, replace(dims, kind="qwen3", experts=None))
    assert "has no tensor model.layers.0.mlp.gate_proj.weight" in problem


def test_all_parameters_decide_the_memory_of_the_teacher() -> None:
    run = node()
    parts = parts_of(teacher_parts(resolve(run), LARGEST))
    assert parts["parameters"] == 2 * 30_532_122_624
    # norms and attention as in a dense layer; the hidden states of eight experts four times
    layer = 2 * (3 * 2048 + 3 * 4096 + 4 * 8 * 2048) + 4 * 2048
    assert parts["activations, logits"] == 8192 * (layer + 512 * 12) + 2 * 256 * 151_936 * 4
    assert parts_of(student_parts(resolve(run), SMALL, LARGEST)) == parts_of(
        student_parts(resolve(run), SMALL, LARGE)
    )
    assert memory_plan(resolve(run), SMALL, LARGEST).fits


def test_a_vllm_teacher_with_experts_has_room_for_one_sequence() -> None:
    run = node(teacher={"model": "t", "backend": "vllm"}, algorithm={"top_k": 16})
    # 0.8 x 80 GB minus 61.1 of weights and 2.0 of working memory; 2 x 48 x 512 x 2 bytes per token
    assert memory_plan(resolve(run), SMALL, LARGEST).scored_sequences == 935_754_752 // (98_304 * 5121) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"mlp_only_layers": [0]},
            "only some layers have experts .*: use a checkpoint with experts in every",
        ),
        ({"decoder_sparse_step": 2}, "only some layers have experts"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9 of 4 experts"),
        ({"moe_intermediate_size": None}, "is not a valid model configuration"),
    ],
)
def test_unusable_experts_are_named(
    folder: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        read_dimensions(tmp_path)


def test_a_check_accepts_experts_as_the_teacher_and_refuses_them_as_the_student(
    folder: Path, tmp_path: Path
) -> None:
    dataset = write_small_dataset(tmp_path / "dataset", [example(1)])

    def checked(student: Path) -> Inspection:
        return inspect(
            small_run(
                dataset,
                dataset={"folder": str(dataset), "allow_mismatch": True},
                student={"model": str(student)},
                teacher={"model": str(folder)},
                lengths={"max_prompt_tokens": 256, "max_response_tokens": 128},
                algorithm={"top_k": 16},
            )
        )

    accepted = checked(write_tiny_model(tmp_path / "dense"))
    assert accepted.problems == () and accepted.prepared is not None
    assert "teacher    4 experts per layer: 0.0 billion parameters in memory" in report(accepted.prepared)
    assert checked(folder).problems == (
        f"student.model: {folder} is a mixture of experts, which is supported as a teacher only: choose a dense student",
    )
