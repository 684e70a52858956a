"""Weighted sums of token losses: the sum of their values and gradients, analytic or not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.training.losses.evaluating import ByGraph, through_the_head, with_gradient
from tests.training.losses.naive import relative_error, teacher_top_k
from training.losses.base import AnalyticTokenLoss, LossInputs, LossOutputs, TokenLoss
from training.losses.combined import Combined, OnSomeTokens, WithSequenceLoss
from training.losses.sampled_losses import FromSampled, NegativeLogLikelihood, ReferenceKL
from training.losses.token_losses import TopKCrossEntropy

T, V = 37, 30
NLL = FromSampled(loss=NegativeLogLikelihood())
KL = FromSampled(loss=ReferenceKL())
CASES = [
    ((0.5, NLL), (0.5, TopKCrossEntropy())),
    ((1.0, TopKCrossEntropy(form="tail_bucket")), (0.3, KL)),
    ((1.0, ByGraph(TopKCrossEntropy())), (-0.2, KL), (2.0, ByGraph(NLL))),
    ((1.0, Combined(terms=((2.0, NLL), (1.0, ByGraph(KL))))), (0.5, NLL)),
    ((0.25, NLL),),
]


def drawn() -> tuple[Tensor, LossInputs]:
    draw = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(T, V, generator=draw, dtype=torch.float64)
    logprobs, ids = teacher_top_k(2 * torch.randn(T, V, generator=draw), 6)
    reference = -3 * torch.rand(T, generator=draw, dtype=torch.float64)
    return logits, LossInputs(
        sampled_ids=torch.randint(V, (T,), generator=draw),
        teacher_logprobs=logprobs,
        teacher_ids=ids,
        reference_logprobs=reference,
    )


def test_half_of_each_by_hand() -> None:
    # student (1/2, 1/4, 1/4), sampled token 1: -log q = 2 log 2; the teacher's only token is 0: cross-entropy log 2.
    # Gradients q - e_1 and q - e_0; the mean is q - (1/2, 1/2, 0).
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log() + 1.0
    inputs = LossInputs(
        sampled_ids=torch.tensor([1]),
        teacher_logprobs=torch.zeros(1, 1, dtype=torch.float64),
        teacher_ids=torch.tensor([[0]]),
    )
    values, gradient = with_gradient(Combined(terms=((0.5, NLL), (0.5, TopKCrossEntropy()))), logits, inputs)
    log2 = torch.log(torch.tensor(2.0, dtype=torch.float64)).item()
    assert values.losses.item() == pytest.approx(1.5 * log2, abs=1e-14)
    assert gradient[0].tolist() == pytest.approx([0.0, -0.25, 0.25], abs=1e-14)


@pytest.mark.parametrize("terms", CASES)
def test_values_and_gradients_are_the_weighted_sums(terms: tuple[tuple[float, TokenLoss], ...]) -> None:
    logits, inputs = drawn()
    coefficients = torch.linspace(-1, 2, T, dtype=torch.float64)
    combined = Combined(terms=terms)
    assert isinstance(combined, AnalyticTokenLoss)
    leaf = logits.clone().requires_grad_()
    exact = torch.stack([weight * loss(leaf, inputs).losses for weight, loss in terms]).sum(0)
    (expected,) = torch.autograd.grad((exact * coefficients).sum(), leaf)
    for loss in (combined, ByGraph(combined)):
        values, gradient = with_gradient(loss, logits, inputs, coefficients)
        assert relative_error(values.losses, exact) < 1e-13
        assert relative_error(gradient, expected) < 1e-12
        assert not any(seen.requires_grad for seen in values.diagnostics.values())
    assert not with_gradient(combined, logits, inputs, coefficients)[0].losses.requires_grad


@pytest.mark.parametrize("terms", CASES[:3])
def test_through_the_head_with_skipped_positions(terms: tuple[tuple[float, TokenLoss], ...]) -> None:
    _, inputs = drawn()
    draw = torch.Generator().manual_seed(6)
    hidden = torch.randn(T, 8, generator=draw, dtype=torch.float64)
    weight = torch.randn(V, 8, generator=draw, dtype=torch.float64)
    coefficients = torch.rand(T, generator=draw, dtype=torch.float64)
    coefficients[::4] = 0.0
    assert inputs.reference_logprobs is not None
    broken = replace(
        inputs, reference_logprobs=inputs.reference_logprobs.masked_fill(coefficients == 0, torch.nan)
    )
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    logits = leaves[0] @ leaves[1].T
    exact = torch.stack([factor * loss(logits, inputs).losses for factor, loss in terms]).sum(0)
    expected = torch.autograd.grad((exact * coefficients).sum(), leaves)
    result, *got = through_the_head(Combined(terms=terms), hidden, weight, broken, coefficients)
    assert relative_error(result.loss, (exact * coefficients).sum()) < 1e-12
    assert all(relative_error(one, other) < 1e-12 for one, other in zip(got, expected, strict=True))


def test_a_single_term_of_weight_1_has_the_bits_of_its_loss() -> None:
    logits, inputs = drawn()
    logits, coefficients = logits.float(), torch.linspace(0.1, 1, T)
    values, gradient = with_gradient(
        Combined(terms=((1.0, TopKCrossEntropy()),)), logits, inputs, coefficients
    )
    expected, plain = with_gradient(TopKCrossEntropy(), logits, inputs, coefficients)
    assert torch.equal(values.losses, expected.losses) and torch.equal(gradient, plain)


def test_of_equal_diagnostics_the_first_counts() -> None:
    def noting(value: float, name: str) -> TokenLoss:
        def loss(logits: Tensor, inputs: LossInputs) -> LossOutputs:
            seen = torch.full((len(logits),), value)
            return LossOutputs(losses=logits.sum(-1) * 0.0, diagnostics={"shared": seen, name: seen})

        return loss

    logits, inputs = drawn()
    combined = Combined(terms=((1.0, noting(1.0, "a")), (1.0, noting(2.0, "b")), (1.0, noting(3.0, "a"))))
    for values in (combined(logits, inputs), with_gradient(combined, logits, inputs)[0]):
        assert {name: seen[0].item() for name, seen in values.diagnostics.items()} == {
            "shared": 1.0, "a": 1.0, "b": 2.0,
        }  # fmt: skip


def test_no_positions() -> None:
    logits, inputs = drawn()
    values, gradient = with_gradient(Combined(terms=CASES[2]), logits[:0], inputs.rows(slice(0, 0)))
    assert len(values.losses) == 0 and gradient.shape == (0, V)


# --- on some tokens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [NLL, TopKCrossEntropy(), ByGraph(TopKCrossEntropy())])
def test_a_term_on_some_tokens_is_the_loss_times_its_weights(inner: TokenLoss) -> None:
    logits, inputs = drawn()
    weights = torch.zeros(T, 3, dtype=torch.float64)
    weights[::3, 1] = 0.5
    weights[1::3, 1] = 2.0
    coefficients = torch.linspace(-1, 2, T, dtype=torch.float64)
    expected, gradient = with_gradient(inner, logits, inputs, coefficients * weights[:, 1])
    chosen = weights[:, 1] != 0
    for loss in (OnSomeTokens(inner=inner, column=1), ByGraph(OnSomeTokens(inner=inner, column=1))):
        values, got = with_gradient(loss, logits, replace(inputs, term_weights=weights), coefficients)
        assert relative_error(values.losses, expected.losses * weights[:, 1]) < 1e-12
        assert relative_error(got, gradient) < 1e-12
        assert (got[~chosen] == 0).all()
        assert torch.equal(values.diagnostics["term_weight_1"], weights[:, 1])
        assert torch.equal(values.diagnostics["entropy"].isnan(), ~chosen)


def test_positions_that_a_term_leaves_out_may_hold_anything() -> None:
    logits, inputs = drawn()
    weights = torch.ones(T, 1, dtype=torch.float64)
    weights[::2] = 0.0
    assert inputs.reference_logprobs is not None
    broken = replace(
        inputs, reference_logprobs=inputs.reference_logprobs.index_fill(0, torch.arange(0, T, 2), torch.nan)
    )
    combined = Combined(terms=((1.0, NLL), (0.5, OnSomeTokens(inner=KL, column=0))))
    values, gradient = with_gradient(combined, logits, replace(broken, term_weights=weights))
    assert values.losses.isfinite().all() and gradient.isfinite().all()
    with pytest.raises(ValueError, match="a term with token weights needs term_weights"):
        with_gradient(combined, logits, inputs)


@pytest.mark.parametrize("count", [0, 1])
def test_no_positions_and_none_that_are_chosen(count: int) -> None:
    logits, inputs = drawn()
    part = replace(inputs.rows(slice(0, count)), term_weights=torch.zeros(count, 1))
    values, gradient = with_gradient(OnSomeTokens(inner=TopKCrossEntropy(), column=0), logits[:count], part)
    assert values.losses.tolist() == [0.0] * count and (gradient == 0).all()


def test_a_token_loss_of_coefficient_0_beside_a_sequence_loss_has_no_effect_whatever_it_is() -> None:
    logits, inputs = drawn()
    slopes = torch.linspace(-1, 1, T, dtype=torch.float64)
    given = replace(
        inputs, sequence_slopes=slopes, token_coefficients=torch.zeros(T, dtype=torch.float64),
        reference_logprobs=torch.full((T,), torch.nan, dtype=torch.float64),
    )  # fmt: skip
    values, gradient = with_gradient(WithSequenceLoss(inner=KL), logits, given)
    alone, expected = with_gradient(WithSequenceLoss(), logits, given)
    assert torch.equal(values.losses, alone.losses) and torch.equal(gradient, expected)
