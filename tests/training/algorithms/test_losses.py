"""Losses by their settings: what they build, what they need, and which settings are refused."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, get_args

import pytest
import torch

from tasks.errors import UserError
from training.algorithms.base import Term
from training.algorithms.losses import (
    AdvantageLikelihood,
    GeneralisedJSD,
    NegativeEntropy,
    NegativeLogLikelihood,
    PolicyGradient,
    ReferenceKL,
    TopKCrossEntropy,
    TopKForm,
    build_loss,
)
from training.algorithms.token_weights import RandomTokens, TeacherUncertain
from training.losses import divergences, entropy, sampled_losses, token_losses
from training.losses.base import AnalyticTokenLoss, LossInputs
from training.losses.combined import Combined, OnSomeTokens

SPECS = [
    TopKCrossEntropy(),
    TopKCrossEntropy(form="tail_bucket"),
    GeneralisedJSD(beta=0.5),
    GeneralisedJSD(beta=0.0, entry_clip=0.05),
    NegativeLogLikelihood(),
    PolicyGradient(),
    ReferenceKL(),
    TopKCrossEntropy(as_kl=True),
    PolicyGradient(shaping=0.1),
    AdvantageLikelihood(),
    NegativeEntropy(),
]


def test_each_builds_its_token_loss() -> None:
    sampled = sampled_losses
    assert [spec.build() for spec in SPECS] == [
        token_losses.TopKCrossEntropy(),
        token_losses.TopKCrossEntropy(form="tail_bucket"),
        divergences.GeneralisedJSD(beta=0.5),
        divergences.GeneralisedJSD(beta=0.0, entry_clip=0.05),
        sampled.FromSampled(loss=sampled.NegativeLogLikelihood()),
        sampled.FromSampled(loss=sampled.PolicyGradient(clip_low=0.2, clip_high=0.2)),
        sampled.FromSampled(loss=sampled.ReferenceKL()),
        token_losses.TopKCrossEntropy(as_kl=True),
        sampled.FromSampled(loss=sampled.PolicyGradient(shaping=0.1)),
        sampled.FromSampled(loss=sampled.AdvantageLikelihood()),
        entropy.NegativeEntropy(),
    ]
    assert TopKCrossEntropy(temperature=1.1).build() == token_losses.TopKCrossEntropy(temperature=1.1)
    assert get_args(TopKForm) == get_args(token_losses.TopKForm)


@pytest.mark.parametrize("spec", SPECS)
def test_the_fields_that_it_needs_suffice_and_none_can_be_left_out(spec: Any) -> None:
    available = {
        "teacher_logprobs": torch.full((2, 3), -math.log(3)),
        "rollout_logprobs": torch.tensor([-1.0, -2.0]),
        "reference_logprobs": torch.tensor([-1.0, -2.0]),
        "advantages": torch.tensor([1.0, -1.0]),
    }
    assert spec.needs <= {field.name for field in fields(LossInputs)}
    loss = spec.build()
    assert isinstance(loss, AnalyticTokenLoss)

    def values(names: frozenset[str]) -> torch.Tensor:
        inputs = LossInputs(sampled_ids=torch.tensor([0, 2]), **{name: available[name] for name in names})
        return loss(torch.zeros(2, 3), inputs).losses

    assert values(spec.needs).shape == (2,)
    for missing in spec.needs:
        with pytest.raises(ValueError, match="needs"):
            values(spec.needs - {missing})


def test_one_term_of_weight_1_is_its_loss_and_others_are_a_sum() -> None:
    spec = TopKCrossEntropy()
    assert build_loss((Term(loss=spec),)) == spec.build()
    assert build_loss((Term(loss=spec, weight=0.5),)) == Combined(terms=((0.5, spec.build()),))
    made = build_loss((Term(loss=NegativeLogLikelihood(), weight=0.5), Term(loss=spec, weight=0.5)))
    assert made == Combined(terms=((0.5, NegativeLogLikelihood().build()), (0.5, spec.build())))


def test_terms_with_token_weights_read_a_column_each() -> None:
    nll, spec = NegativeLogLikelihood(), TopKCrossEntropy()
    alone = build_loss((Term(loss=spec, token_weight=RandomTokens()),))
    assert alone == OnSomeTokens(inner=spec.build(), column=0)
    made = build_loss(
        (
            Term(loss=spec, token_weight=TeacherUncertain()),
            Term(loss=nll),
            Term(loss=spec, weight=0.5, token_weight=RandomTokens()),
        )
    )
    assert made == Combined(
        terms=(
            (1.0, OnSomeTokens(inner=spec.build(), column=0)),
            (1.0, nll.build()),
            (0.5, OnSomeTokens(inner=spec.build(), column=1)),
        )
    )


@pytest.mark.parametrize("weight", [0.0, math.nan, math.inf])
def test_weights_without_a_meaning_are_refused(weight: float) -> None:
    with pytest.raises(
        UserError, match=rf"ReferenceKL\(\) has weight {weight}: give a finite number other than 0"
    ):
        build_loss((Term(loss=TopKCrossEntropy()), Term(loss=ReferenceKL(), weight=weight)))
    with pytest.raises(UserError, match="the algorithm has no loss"):
        build_loss(())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *[
            (
                lambda beta=beta: GeneralisedJSD(beta=beta),
                r"the divergence's beta is .*: give a number from 0",
            )
            for beta in (-0.1, 1.1, math.nan, math.inf)
        ],
        (lambda: GeneralisedJSD(beta=0.5, temperature=0.0), "the divergence's temperature is 0.0"),
        (lambda: GeneralisedJSD(beta=0.5, temperature=math.nan), "the divergence's temperature is nan"),
        (lambda: GeneralisedJSD(beta=0.0, entry_clip=0.0), "the divergence's entry_clip is 0.0"),
        (lambda: GeneralisedJSD(beta=0.5, entry_clip=0.05), "entry_clip with beta 0.5: only forward KL"),
        (lambda: TopKCrossEntropy(temperature=-1.0), "the cross-entropy's temperature is -1.0"),
        (
            lambda: TopKCrossEntropy(form="tail_bucket", temperature=1.1),
            "temperature 1.1 with form tail_bucket: a temperature other than 1 needs form teacher_renormalised",
        ),
        (lambda: PolicyGradient(clip_low=0.0), "clip_low is 0.0: give a number above 0, up to 1"),
        (lambda: PolicyGradient(clip_low=1.5), "clip_low is 1.5"),
        (lambda: PolicyGradient(shaping=0.0), "the policy gradient's shaping is 0.0"),
        (lambda: PolicyGradient(clip_high=math.inf), "clip_high is inf"),
    ],
)
def test_settings_outside_their_range_are_refused(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
