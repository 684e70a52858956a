"""The entropy bonus: by hand, against autograd in float64, and at its limits."""

from __future__ import annotations

import math

import pytest
import torch

from tests.training.losses.evaluating import ByGraph, with_gradient
from tests.training.losses.naive import relative_error
from training.losses.base import AnalyticTokenLoss, LossInputs
from training.losses.entropy import NegativeEntropy

LOSS = NegativeEntropy()
BOTH = pytest.mark.parametrize("loss", [LOSS, ByGraph(LOSS)])


@BOTH
def test_by_hand(loss) -> None:
    # q = (1/2, 1/4, 1/4): H = 1.5 log 2. d(-H)/dz = q (log q + H): 1/2 x 1/2 log 2, twice 1/4 x (-1/2) log 2
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log() - 2.0
    values, gradient = with_gradient(loss, logits, LossInputs(sampled_ids=torch.tensor([1])))
    log2 = math.log(2)
    assert values.losses.item() == pytest.approx(-1.5 * log2)
    assert gradient[0].tolist() == pytest.approx([log2 / 4, -log2 / 8, -log2 / 8])
    assert values.diagnostics["entropy"].item() == pytest.approx(1.5 * log2)
    assert values.diagnostics["sampled_logprob"].item() == pytest.approx(-2 * log2)


@BOTH
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_value_and_gradient_equal_the_definition(loss, dtype: torch.dtype, tolerance: float) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40, 50, generator=draw, dtype=torch.float64)
    coefficients = torch.linspace(-1, 2, 40, dtype=torch.float64)
    leaf = logits.clone().requires_grad_()
    exact = -torch.distributions.Categorical(logits=leaf).entropy()
    (expected,) = torch.autograd.grad((exact * coefficients).sum(), leaf)
    inputs = LossInputs(sampled_ids=torch.zeros(40, dtype=torch.int64))
    values, gradient = with_gradient(loss, logits.to(dtype), inputs, coefficients.to(dtype))
    assert relative_error(values.losses, exact) < tolerance and relative_error(gradient, expected) < tolerance


@BOTH
def test_excluded_tokens_certain_and_no_positions_are_finite(loss) -> None:
    assert isinstance(LOSS, AnalyticTokenLoss)
    logits = torch.zeros(2, 4, dtype=torch.float64)
    logits[0, 1:] = -math.inf  # certain
    logits[1, 2:] = -math.inf
    values, gradient = with_gradient(loss, logits, LossInputs(sampled_ids=torch.zeros(2, dtype=torch.int64)))
    assert values.losses.tolist() == pytest.approx([0.0, -math.log(2)])
    assert torch.nan_to_num(gradient, nan=7.0).abs().max() < 1e-12
    nothing, none = with_gradient(loss, logits[:0], LossInputs(sampled_ids=torch.zeros(0, dtype=torch.int64)))
    assert len(nothing.losses) == 0 and none.shape == (0, 4)
