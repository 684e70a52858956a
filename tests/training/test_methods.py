"""The objective of a run: the preset, the parts that the settings change, and needs that the loop does not support."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tests.training.small_run import small_run
from training import methods
from training.losses.base import LossInputs, LossOutputs
from training.losses.divergences import GeneralisedJSD
from training.losses.prompt_weights import Binary, Constant, PassRate, Permuted, Soft, Uniform
from training.losses.token_losses import AnalyticReferenceKL, TopKCrossEntropy
from training.methods import compose
from training.objectives.base import Needs
from training.objectives.presets import load_preset


def composed(**objective: Any) -> Any:
    return compose(small_run(Path("d"), objective=objective))


def test_without_changes_the_objective_is_the_preset() -> None:
    assert composed() == composed(reference_kl_coefficient=0.0) == load_preset("uopd")


def test_the_penalty_wraps_the_chosen_loss() -> None:
    made = composed(
        reference_kl_coefficient=0.05, top_k=16, top_k_form="tail_bucket", prompt_weight="uniform"
    )
    assert made.token_loss == AnalyticReferenceKL(
        inner=TopKCrossEntropy(form="tail_bucket"), coefficient=0.05
    )
    assert made.needs == Needs(teacher="topk", top_k=16, reference_model=True)


@pytest.mark.parametrize("preset", ["uopd", "opd"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_divergence_replaces_the_cross_entropy(preset: str, beta: float) -> None:
    made = composed(preset=preset, top_k="full", divergence_beta=beta)
    expected = replace(load_preset(preset), token_loss=GeneralisedJSD(beta=beta), needs=Needs(teacher="full"))
    assert made == expected


@pytest.mark.parametrize(
    ("chosen", "weight"),
    [
        ("uniform", Uniform()),
        ("soft", Soft()),
        ("pass_rate", PassRate()),
        ("permuted", Permuted(seed=0)),
        ("constant", Constant()),
        ({"kind": "binary", "tau": 0.3}, Binary(tau=0.3, scale="raw")),
    ],
)
def test_a_divergence_can_be_combined_with_every_prompt_weight_and_the_penalty(
    chosen: Any, weight: Any
) -> None:
    made = composed(top_k="full", divergence_beta=0.5, prompt_weight=chosen, reference_kl_coefficient=0.05)
    assert made.prompt_weight == weight
    assert made.token_loss == AnalyticReferenceKL(inner=GeneralisedJSD(beta=0.5), coefficient=0.05)
    assert made.needs == Needs(teacher="full", reference_model=True)


def test_a_divergence_is_rejected_for_an_objective_without_a_cross_entropy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other(logits: Any, inputs: LossInputs) -> LossOutputs:
        raise AssertionError("must not be called")

    monkeypatch.setattr(methods, "load_preset", lambda _name: replace(load_preset("uopd"), token_loss=other))
    with pytest.raises(
        UserError, match="divergence_beta is set for an objective without a top-k cross-entropy"
    ):
        composed(top_k="full", divergence_beta=0.5)


@pytest.mark.parametrize(
    ("needs", "what"),
    [
        ({"teacher": "none"}, r"a loop without a teacher \(teacher 'none'\)"),
        ({"teacher": "sampled"}, "sampled tokens only"),
        ({"teacher": "full", "reward": True}, r"verified answers \(reward\)"),
        ({"teacher": "full", "privileged": True}, r"sees the solution \(privileged\)"),
        ({"teacher": "full", "rollouts": "dataset"}, "the dataset's responses"),
    ],
)
def test_unsupported_needs_are_rejected(
    monkeypatch: pytest.MonkeyPatch, needs: dict[str, Any], what: str
) -> None:
    other = replace(load_preset("uopd"), needs=Needs(**needs))
    monkeypatch.setattr(methods, "load_preset", lambda _name: other)
    with pytest.raises(UserError, match=f"objective.preset 'uopd' needs .*{what}.*: choose another preset"):
        composed()
