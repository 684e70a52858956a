"""The included models: small, loadable, and the teacher solves easy problems."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pocket import world
from pocket.recipes import POCKET, RECIPES
from prompts import load_prompt
from tasks.answers.extraction import extract_answer

MIB = 1024**2


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_model_loads_in_bf16_as_qwen3(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(POCKET / name)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert next(model.parameters()).dtype == torch.bfloat16
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert json.loads((POCKET / name / "training.json").read_text())["parameters"] == model.num_parameters()


def test_all_weights_together_stay_below_forty_megabytes() -> None:
    assert sum(path.stat().st_size for path in POCKET.glob("*/model.safetensors")) < 40 * MIB


def test_no_checkpoint_needs_remote_code_or_pickles() -> None:
    for name in RECIPES:
        assert "auto_map" not in json.loads((POCKET / name / "config.json").read_text())
        assert not [
            path for path in (POCKET / name).iterdir() if path.suffix in {".bin", ".pt", ".pkl", ".py"}
        ]


def test_the_teacher_solves_seventeen_of_twenty_easy_problems_greedily() -> None:
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(POCKET / "teacher", padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(POCKET / "teacher").eval()
    problems = [world.problem(2, "easy", 50_000 + index) for index in range(20)]
    prompts = [
        tokenizer.apply_chat_template(
            load_prompt("teacher/solve").render(problem=problem.text),
            tokenize=False, add_generation_prompt=True, enable_thinking=False,
        )
        for problem in problems
    ]  # fmt: skip
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        output = model.generate(**batch, max_new_tokens=160, do_sample=False, temperature=None)
    replies = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [
        extract_answer(reply) == problem.answer for reply, problem in zip(replies, problems, strict=True)
    ]
    assert sum(right) >= 17, [reply for reply, good in zip(replies, right, strict=True) if not good]
