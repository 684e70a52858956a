"""The training loop on a model of a few thousand parameters, and the schedule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pocket import train as training
from pocket.data import SOLVER, prepare
from pocket.recipes import POCKET, RECIPES, Recipe
from pocket.tokenizer import load_tokenizer

TINY = Recipe(
    name="tiny", kind=SOLVER, hidden=64, mlp=64, layers=1, heads=1, key_value_heads=1, examples=60, steps=6,
    tokens_per_step=1_024,
)  # fmt: skip


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder of its own, the shipped tokenizer, and no compiler, which would take a minute."""
    monkeypatch.setattr(training, "WORK", tmp_path)
    monkeypatch.setattr(training, "POCKET", tmp_path / "models")
    monkeypatch.setattr(training, "TOKENIZER", POCKET / "teacher")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    (tmp_path / "models").mkdir()
    return tmp_path


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    recipe = replace(TINY, warm_up=0.1, decay=0.5)
    assert recipe.rate(0.0) == pytest.approx(0.01)
    assert recipe.rate(0.05) == pytest.approx(0.51)
    assert recipe.rate(0.3) == 1.0
    assert recipe.rate(0.75) == pytest.approx(0.5)
    assert recipe.rate(1.0) == 0.0


def test_every_matrix_inside_the_layers_goes_to_muon_and_the_rest_to_adam(work: Path) -> None:
    model = training.build_model(TINY)
    muon, adam = training.build_optimizers(model, TINY)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    to_muon = {names[id(p)] for p in muon.param_groups[0]["params"]}
    to_adam = {names[id(p)] for p in adam.param_groups[0]["params"]}
    assert to_muon == {name for name in names.values() if name.endswith("_proj.weight")}
    assert to_muon | to_adam == set(names.values())
    assert "model.embed_tokens.weight" in to_adam


def test_the_loss_is_the_cross_entropy_of_the_reply_alone(work: Path) -> None:
    model = training.build_model(TINY)
    loss = training.build_loss(model)
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        value = loss(tokens, torch.tensor([1, 2]), torch.tensor([7, 8]))
        logs = model(input_ids=tokens).logits[0].log_softmax(-1)
    assert float(value) == pytest.approx(float(-(logs[1, 7] + logs[2, 8]) / 2), rel=0.01)


def test_training_is_deterministic_and_lowers_the_loss(work: Path) -> None:
    recipe = replace(TINY, steps=12)
    examples = prepare(recipe.kind, recipe.examples, training.TOKENIZER, work, processes=1)
    first, progress, loss = training.run(recipe, None, examples)
    second, _, again = training.run(recipe, None, examples)
    assert progress.step == 12
    assert loss == again < 7.5
    for name, value in weights(first).items():
        assert torch.equal(value, weights(second)[name]), name


def test_a_killed_training_continues_exactly(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = prepare(TINY.kind, TINY.examples, training.TOKENIZER, work, processes=1)
    whole, _, _ = training.run(TINY, None, examples)
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
    real_update, done = training.update, []

    def killed_after_four(*arguments: object) -> None:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(1)
        real_update(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "update", killed_after_four)
    with pytest.raises(KeyboardInterrupt):
        training.run(TINY, None, examples)
    monkeypatch.setattr(training, "update", real_update)
    continued, progress, _ = training.run(TINY, None, examples)
    assert progress.step == TINY.steps
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(continued)[name]), name


def test_a_state_of_another_recipe_is_not_continued(work: Path) -> None:
    model = training.build_model(TINY)
    optimizers = training.build_optimizers(model, TINY)
    path = work / "state.safetensors"
    training.save_state(path, model, optimizers, training.Progress(step=3, seconds=1.0, tokens=9), "one")
    assert training.load_state(path, model, optimizers, "one") == training.Progress(
        step=3, seconds=1.0, tokens=9
    )
    assert training.load_state(path, model, optimizers, "two") == training.Progress()


def test_the_clock_ends_a_run_that_steps_would_not() -> None:
    progress = training.Progress(step=1, seconds=90.0, tokens=1)
    assert progress.share(replace(TINY, steps=100), None) == pytest.approx(0.01)
    assert progress.share(replace(TINY, steps=100), 3.0) == pytest.approx(0.5)


def test_a_finished_training_leaves_a_folder_that_loads_and_no_state(work: Path) -> None:
    folder = training.train(TINY)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert load_tokenizer(folder).eos_token_id == model.generation_config.eos_token_id
    assert sorted(path.name for path in (work / "models").iterdir()) == ["tiny"]
    assert not list(work.glob("*.state.safetensors"))


def test_the_recipes_are_for_the_three_models_in_order_of_their_start() -> None:
    assert list(RECIPES) == ["teacher", "assistant", "student"]
