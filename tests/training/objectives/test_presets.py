"""All shipped presets, and declarations that are rejected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tasks.errors import UserError
from training.losses.base import LossInputs, LossOutputs
from training.losses.prompt_weights import Soft, Uniform
from training.losses.reductions import per_sequence_mean
from training.losses.token_losses import TopKCrossEntropy
from training.objectives import presets
from training.objectives.ablations import with_form, with_top_k
from training.objectives.base import Needs, Objective
from training.objectives.presets import load_preset, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_every_file_is_an_objective(name: str) -> None:
    assert isinstance(load_preset(name), Objective)


def test_a_preset_is_found_by_its_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (Path(presets.__path__[0]) / "opd.py").read_text(encoding="utf-8")
    (tmp_path / "a_method_of_tomorrow.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(presets, "__path__", [*presets.__path__, str(tmp_path)])
    assert "a_method_of_tomorrow" in preset_names()
    assert load_preset("a_method_of_tomorrow") == load_preset("opd")


def test_the_error_for_an_unknown_objective_lists_the_names() -> None:
    with pytest.raises(UserError, match=r"unknown objective 'updo': choose one of .*opd, .*uopd"):
        load_preset("updo")


def test_uopd_is_as_in_the_paper() -> None:
    uopd = load_preset("uopd")
    assert uopd.needs == Needs(rollouts="student", teacher="topk", top_k=512)
    assert uopd.token_loss == TopKCrossEntropy(form="teacher_renormalised")
    assert uopd.prompt_weight == Soft()
    assert uopd.reduction is per_sequence_mean


def test_opd_is_uopd_with_uniform_weights() -> None:
    assert replace(load_preset("opd"), prompt_weight=Soft()) == load_preset("uopd")
    assert load_preset("opd").prompt_weight == Uniform()


def test_an_ablation_changes_one_part() -> None:
    uopd = load_preset("uopd")
    wider = with_top_k(uopd, 2048)
    assert (wider.needs.top_k, replace(wider, needs=uopd.needs)) == (2048, uopd)
    full = with_top_k(uopd, "full")
    assert full.needs == Needs(rollouts="student", teacher="full")
    assert with_top_k(full, 512) == uopd
    tail = with_form(uopd, "tail_bucket")
    assert tail.token_loss == TopKCrossEntropy(form="tail_bucket")
    assert with_form(tail, "teacher_renormalised") == uopd


def test_a_part_that_an_objective_does_not_have_cannot_be_changed() -> None:
    def hard(logits: torch.Tensor, inputs: LossInputs) -> LossOutputs:
        return LossOutputs(losses=torch.zeros(len(inputs)), diagnostics={})

    other = replace(load_preset("opd"), token_loss=hard, needs=Needs(rollouts="dataset"))
    with pytest.raises(UserError, match="top_k is set for an objective without"):
        with_top_k(other, 16)
    with pytest.raises(UserError, match="the top-k form is set"):
        with_form(other, "tail_bucket")


@pytest.mark.parametrize(
    "needs",
    [
        {"teacher": "topk"},
        {"teacher": "topk", "top_k": 0},
        {"teacher": "full", "top_k": 4},
        {"top_k": 4},
        {"privileged": True},
    ],
)
def test_contradictory_needs_are_rejected(needs: dict) -> None:
    with pytest.raises(UserError):
        Needs(**needs)


def test_positions_are_sliced_and_checked_together() -> None:
    ids = torch.arange(12).reshape(4, 3)
    inputs = LossInputs(sampled_ids=torch.arange(4), teacher_logprobs=-ids.float(), teacher_ids=ids)
    part = inputs.rows(torch.tensor([3, 1]))
    assert part.sampled_ids.tolist() == [3, 1]
    assert part.teacher_ids is not None and part.teacher_ids.tolist() == [[9, 10, 11], [3, 4, 5]]
    assert part.rollout_logprobs is None
    with pytest.raises(ValueError, match="rollout_logprobs has 3 rows for 4"):
        replace(inputs, rollout_logprobs=torch.zeros(3))
    with pytest.raises(ValueError, match="same shape"):
        replace(inputs, teacher_ids=ids[:, :2])
