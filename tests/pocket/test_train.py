"""The training loop with a model of a few thousand parameters, the schedule, and the recipes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pocket import train as training
from pocket.data import HASTY_SOLVER, SOLVER
from pocket.recipes import POCKET, RECIPES, Recipe
from pocket.tokenizer import TOKENIZER_FILES, load_tokenizer
from pocket.variants import Variant

TINY = Recipe(
    name="tiny", kind=SOLVER, examples=60, steps=6, tokens_per_step=1_024,
    hidden=64, mlp=64, layers=1, heads=1, key_value_heads=1,
)  # fmt: skip


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a separate work folder, the included tokenizer, and no compiler, which would take a minute."""
    monkeypatch.setattr(training, "WORK", tmp_path)
    monkeypatch.setattr(training, "POCKET", tmp_path / "models")
    monkeypatch.setattr(training, "TOKENIZER", POCKET / "teacher")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    (tmp_path / "models").mkdir()
    return tmp_path


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    others = weights(second)
    for name, value in weights(first).items():
        assert torch.equal(value, others[name]), name


def test_the_rate_increases_stays_constant_and_decreases_to_zero() -> None:
    recipe = replace(TINY, warm_up=0.1, decay=0.5)
    assert recipe.rate(0.0) == pytest.approx(0.01)
    assert recipe.rate(0.05) == pytest.approx(0.51)
    assert recipe.rate(0.3) == 1.0
    assert recipe.rate(0.75) == pytest.approx(0.5)
    assert recipe.rate(1.0) == 0.0


def test_the_matrices_of_the_layers_use_muon_and_the_rest_adam(work: Path) -> None:
    model = training.build_model(TINY)
    muon, adam = training.build_optimizers(model, TINY)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    to_muon = {names[id(p)] for p in muon.param_groups[0]["params"]}
    to_adam = {names[id(p)] for p in adam.param_groups[0]["params"]}
    assert to_muon == {name for name in names.values() if name.endswith("_proj.weight")}
    assert to_muon | to_adam == set(names.values())
    assert "model.embed_tokens.weight" in to_adam


def test_the_loss_is_the_cross_entropy_of_the_reply_only(work: Path) -> None:
    model = training.build_model(TINY)
    loss = training.build_loss(model)
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        value = loss(tokens, torch.tensor([1, 2]), torch.tensor([7, 8]))
        logs = model(input_ids=tokens).logits[0].log_softmax(-1)
    assert float(value) == pytest.approx(float(-(logs[1, 7] + logs[2, 8]) / 2), rel=0.01)


def test_training_is_deterministic_and_lowers_the_loss(work: Path) -> None:
    recipe = replace(TINY, steps=12)
    first, progress = training.run(recipe)
    (work / "tiny.state.safetensors").unlink()
    second, again = training.run(recipe)
    assert progress.loss == again.loss < 7.5
    assert_same_weights(first, second)


def test_an_interrupted_training_resumes_exactly(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(TINY, steps=9, finish=HASTY_SOLVER, finish_share=0.4)
    whole, _ = training.run(recipe)
    (work / "tiny.state.safetensors").unlink()
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
    real_update = training.update
    done: list[int] = []

    def killed_after_seven(*arguments: Any) -> None:
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(1)
        real_update(*arguments)

    monkeypatch.setattr(training, "update", killed_after_seven)
    with pytest.raises(KeyboardInterrupt):
        training.run(recipe)
    monkeypatch.setattr(training, "update", real_update)
    continued, progress = training.run(recipe)
    assert progress.step == 9
    assert progress.finishing == 3
    assert_same_weights(whole, continued)


def test_a_checkpoint_of_another_recipe_is_not_resumed(work: Path) -> None:
    model = training.build_model(TINY)
    path = work / "state.safetensors"
    progress = training.Progress(step=3, seconds=1.0, tokens=9, loss=2.0)
    training.save_state(path, model, training.build_optimizers(model, TINY), progress, "one")
    assert training.load_progress(path, "one") == progress
    assert training.load_progress(path, "two") == training.Progress()


def test_the_time_limit_ends_a_run_before_its_steps() -> None:
    progress = training.Progress(step=1, seconds=90.0)
    assert progress.share(replace(TINY, steps=100), None) == pytest.approx(0.01)
    assert progress.share(replace(TINY, steps=100), 3.0) == pytest.approx(0.5)


def test_a_variant_has_the_tokenizer_of_the_finished_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "TOKENIZER", tmp_path / "work" / "tokenizer")
    monkeypatch.setattr(training, "train_tokenizer", lambda: pytest.fail("another tokenizer was learned"))
    training.provide_tokenizer(Variant(wrong=("gcd",)))
    assert {path.name: path.read_bytes() for path in training.TOKENIZER.iterdir()} == {
        name: (POCKET / "teacher" / name).read_bytes() for name in TOKENIZER_FILES
    }
    assert (POCKET / "student" / "tokenizer.json").read_bytes() == (
        training.TOKENIZER / "tokenizer.json"
    ).read_bytes()


def test_a_variant_may_start_from_the_finished_model() -> None:
    recipe = replace(RECIPES["teacher"], name="v", variant=Variant(wrong=("gcd",)), start="teacher")
    finished: Any = AutoModelForCausalLM.from_pretrained(POCKET / "teacher", dtype=torch.float32)
    model = training.build_model(recipe)
    assert_same_weights(model, finished)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_finished_training_leaves_a_loadable_folder_and_no_checkpoint(work: Path) -> None:
    folder = training.train(TINY)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert (
        model.num_parameters() == json.loads((folder / "training.json").read_text())["parameters"] < 200_000
    )
    assert load_tokenizer(folder).eos_token_id == model.generation_config.eos_token_id
    assert sorted(path.name for path in (work / "models").iterdir()) == ["tiny"]
    assert not list(work.glob("*.state.safetensors"))
