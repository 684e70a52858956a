"""Adapters are merged into their base as peft defines them, and what does not fit is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.evaluate_settings import EvaluateSettings
from training.evaluation.adapters import merged_folder
from training.evaluation.models import open_evaluated

BASE = PROJECT_ROOT / "pocket" / "student"
NAME = "model.layers.0.self_attn.q_proj"


def adapter(folder: Path, *, rank: int = 4, **config: Any) -> Path:
    folder.mkdir(parents=True)
    width = load_file(BASE / "model.safetensors")[f"{NAME}.weight"].shape
    generator = torch.Generator().manual_seed(0)
    save_file(
        {
            f"base_model.model.{NAME}.lora_A.weight": torch.randn(rank, width[1], generator=generator),
            f"base_model.model.{NAME}.lora_B.weight": torch.randn(width[0], rank, generator=generator),
        },
        folder / "adapter_model.safetensors",
    )
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 8,
        "base_model_name_or_path": str(BASE),
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("config", "scale"), [({}, 8 / 4), ({"use_rslora": True}, 8 / 4**0.5)])
def test_the_sum_is_formed_in_float32_and_rounded_once(
    tmp_path: Path, config: dict[str, Any], scale: float
) -> None:
    folder = merged_folder(adapter(tmp_path / "run" / "adapter", **config), BASE, tmp_path / "merged", print)
    before, after = load_file(BASE / "model.safetensors"), load_file(folder / "model.safetensors")
    parts = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    first, second = (parts[f"base_model.model.{NAME}.lora_{part}.weight"] for part in "AB")
    expected = (before[f"{NAME}.weight"].float() + scale * second @ first).to(before[f"{NAME}.weight"].dtype)
    assert torch.equal(after.pop(f"{NAME}.weight"), expected) and before.pop(f"{NAME}.weight") is not None
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert (folder / "tokenizer.json").read_bytes() == (BASE / "tokenizer.json").read_bytes()


def test_an_adapter_is_evaluated_with_the_base_that_it_names_or_that_is_given(tmp_path: Path) -> None:
    own = adapter(tmp_path / "own")
    found = open_evaluated(EvaluateSettings(model=str(own)), tmp_path / "merged", print)
    assert found.folder is not None and found.folder.parent == tmp_path / "merged"
    again = open_evaluated(EvaluateSettings(model=str(own)), tmp_path / "merged", print)
    assert again.identity == found.identity
    lost = adapter(tmp_path / "lost", base_model_name_or_path="./nowhere")
    with pytest.raises(
        UserError, match=r"is a LoRA adapter, and its base model ./nowhere is not there: give it as base"
    ):
        open_evaluated(EvaluateSettings(model=str(lost)), tmp_path / "merged", print)
    given = open_evaluated(EvaluateSettings(model=str(lost), base=str(BASE)), tmp_path / "merged", print)
    assert given.identity.partition(":")[2] == found.identity.partition(":")[2]
    nameless = adapter(tmp_path / "nameless", base_model_name_or_path=None)
    with pytest.raises(UserError, match=r"is a LoRA adapter that names no base model: give it as base"):
        open_evaluated(EvaluateSettings(model=str(nameless)), tmp_path / "merged", print)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"use_dora": True}, r"is no plain LoRA \(use_dora\)"),
        ({"peft_type": "IA3"}, r"is no plain LoRA \(peft_type IA3\)"),
        ({"bias": "all"}, "is no plain LoRA"),
        ({"r": 0}, "r 0 and lora_alpha 8, which are not"),
        ({"lora_alpha": None}, "lora_alpha None, which are not"),
    ],
)
def test_other_adapters_are_refused(tmp_path: Path, config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        merged_folder(adapter(tmp_path / "a", **config), BASE, tmp_path / "merged", print)


def test_an_adapter_of_another_model_leaves_no_folder(tmp_path: Path) -> None:
    other = tmp_path / "base"
    shutil.copytree(BASE, other)
    weights = load_file(BASE / "model.safetensors")
    del weights[f"{NAME}.weight"]
    save_file(weights, other / "model.safetensors")
    with pytest.raises(UserError, match=rf"does not fit .*base, which has no weight {NAME}.weight"):
        merged_folder(adapter(tmp_path / "a"), other, tmp_path / "merged", print)
    assert list((tmp_path / "merged").iterdir()) == []


def test_a_truncated_adapter_is_named(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a") / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="is not a complete safetensors file"):
        merged_folder(tmp_path / "a", BASE, tmp_path / "merged", print)
    path.unlink()
    with pytest.raises(UserError, match=r"has no adapter_model.safetensors"):
        merged_folder(tmp_path / "a", BASE, tmp_path / "merged", print)
