"""The top-k cross-entropy: against hand-computed values, closed forms, and a row-by-row implementation of the definition."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training.losses.evaluating import ByGraph, with_gradient
from tests.training.losses.naive import naive_losses, relative_error, teacher_top_k
from training.losses.base import AnalyticTokenLoss, LossInputs
from training.losses.token_losses import TopKCrossEntropy, TopKForm

FORMS: tuple[TopKForm, ...] = get_args(TopKForm)
LN2 = math.log(2)


def inputs_of(logprobs: Tensor, ids: Tensor | None) -> LossInputs:
    sampled = torch.zeros(len(logprobs), dtype=torch.int64)
    return LossInputs(sampled_ids=sampled, teacher_logprobs=logprobs, teacher_ids=ids)


def by_autograd(loss: TopKCrossEntropy, logits: Tensor, inputs: LossInputs) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    values = loss(leaf, inputs)
    values.losses.sum().backward()
    assert leaf.grad is not None
    return values.losses.detach(), leaf.grad


def analytically(loss: TopKCrossEntropy, logits: Tensor, inputs: LossInputs) -> tuple[Tensor, Tensor]:
    work = logits.detach().clone()
    values = loss.gradient_(work, inputs, torch.ones(len(work), dtype=work.dtype))
    return values.losses, work


BOTH = pytest.mark.parametrize("evaluate", [by_autograd, analytically])


# Student (1/2, 1/4, 1/8, 1/8); teacher's top 2: token 0 with 1/2, token 2 with 1/4, so m = 3/4.
HAND = {
    # 2/3 log 2 + 1/3 log 8; gradient q - (2/3, 0, 1/3, 0)
    "teacher_renormalised": (2 / 3 * LN2 + 1 / 3 * 3 * LN2, [-1 / 6, 1 / 4, -5 / 24, 1 / 8]),
    # 1/2 log 2 + 1/4 log 8; gradient 3/4 q - (1/2, 0, 1/4, 0)
    "unnormalised": (1 / 2 * LN2 + 1 / 4 * 3 * LN2, [-1 / 8, 3 / 16, -5 / 32, 3 / 32]),
    # and 1/4 log(8/3), since tokens 1 and 3 have 3/8; gradient q - p in the top k, q (1 - (1/4) / (3/8)) = q / 3 in the tail
    "tail_bucket": (1 / 2 * LN2 + 3 / 4 * LN2 + math.log(8 / 3) / 4, [0.0, 1 / 12, -1 / 8, 1 / 24]),
}


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_the_three_forms_computed_by_hand(form: TopKForm, evaluate) -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log() + 3.0
    teacher = inputs_of(torch.tensor([[0.5, 0.25]], dtype=torch.float64).log(), torch.tensor([[0, 2]]))
    loss, gradient = evaluate(TopKCrossEntropy(form=form), logits, teacher)
    expected_loss, expected_gradient = HAND[form]
    assert loss.item() == pytest.approx(expected_loss, abs=1e-14)
    assert gradient[0].tolist() == pytest.approx(expected_gradient, abs=1e-14)


def test_diagnostics_computed_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log() - 2.0
    teacher = LossInputs(
        sampled_ids=torch.tensor([3]),
        teacher_logprobs=torch.tensor([[0.5, 0.25]], dtype=torch.float64).log(),
        teacher_ids=torch.tensor([[0, 2]]),
    )
    loss = TopKCrossEntropy()
    expected = {
        "teacher_mass": 3 / 4,
        "student_mass": 5 / 8,
        "entropy": 1.75 * LN2,
        "sampled_logprob": -3 * LN2,
    }
    assert isinstance(loss, AnalyticTokenLoss)
    for values in (loss(logits, teacher), loss.gradient_(logits.clone(), teacher, torch.ones(1))):
        assert {name: value.item() for name, value in values.diagnostics.items()} == pytest.approx(expected)


@BOTH
@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_student_equal_to_its_teacher_over_the_full_vocabulary(
    form: TopKForm, with_ids: bool, evaluate
) -> None:
    logits = 3 * torch.randn(7, 33, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logprobs = torch.log_softmax(logits, -1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    ids = torch.arange(33).expand(7, 33).flip(-1) if with_ids else None
    teacher = inputs_of(logprobs.flip(-1) if with_ids else logprobs, ids)
    loss, gradient = evaluate(TopKCrossEntropy(form=form), logits, teacher)
    assert loss.tolist() == pytest.approx(entropy.tolist(), rel=1e-12)
    assert gradient.abs().max() < 1e-14


@BOTH
def test_a_student_equal_to_its_teacher_over_the_top_k(evaluate) -> None:
    logits = 2 * torch.randn(5, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logprobs, ids = torch.log_softmax(logits, -1).topk(6)
    mass = logprobs.exp().sum(-1)
    share = logprobs.exp() / mass[:, None]
    loss, gradient = evaluate(TopKCrossEntropy(), logits, inputs_of(logprobs, ids))
    expected = torch.softmax(logits, -1).scatter_add(-1, ids, -share)
    assert loss.tolist() == pytest.approx((-(share * share.log()).sum(-1) - mass.log()).tolist(), rel=1e-12)
    assert relative_error(gradient, expected) < 1e-12
    assert gradient.abs().sum(-1).tolist() == pytest.approx((2 * (1 - mass)).tolist(), rel=1e-12)


@BOTH
def test_the_tail_bucket_has_no_gradient_if_the_buckets_agree(evaluate) -> None:
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    logprobs, ids = torch.log_softmax(logits, -1).topk(6)
    _, gradient = evaluate(TopKCrossEntropy(form="tail_bucket"), logits, inputs_of(logprobs, ids))
    assert gradient.abs().max() < 1e-15


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_a_single_teacher_token_gives_a_gradient(form: TopKForm, evaluate) -> None:
    # Renormalising both sides would make this gradient vanish.
    logits = torch.randn(4, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    logprobs, ids = teacher_top_k(torch.randn(4, 12, generator=torch.Generator().manual_seed(5)), 1)
    _, gradient = evaluate(TopKCrossEntropy(form=form), logits, inputs_of(logprobs, ids))
    assert (gradient.abs().sum(-1) > 0.01).all()


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_padding_has_no_effect(form: TopKForm, evaluate) -> None:
    """-inf with any id, ids outside the student's vocabulary, and a row that is only padding."""
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    bare = inputs_of(torch.tensor([[0.5, 0.3], [0.6, 0.1]]).log(), torch.tensor([[0, 4], [8, 2]]))
    padded = inputs_of(
        torch.tensor([[0.5, 0.3, 0.0, 0.05], [0.0, 0.6, 0.1, 0.01], [0.0, 0.0, 0.0, 0.2]]).log(),
        torch.tensor([[0, 4, 0, 9], [0, 8, 2, -1], [0, -1, 5, 700]]),
    )
    loss, gradient = evaluate(TopKCrossEntropy(form=form), logits, padded)
    expected_loss, expected_gradient = evaluate(TopKCrossEntropy(form=form), logits[:2], bare)
    assert loss.tolist() == pytest.approx([*expected_loss.tolist(), 0.0], abs=1e-15)
    assert torch.allclose(gradient[:2], expected_gradient, rtol=0, atol=1e-15)
    assert (gradient[2] == 0).all()


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_stay_finite(form: TopKForm, evaluate) -> None:
    """A student whose mass is all in the top k (its tail underflows), and one with all its mass elsewhere."""
    logits = torch.tensor([[200.0, 190.0, -200.0, -200.0], [-200.0, -200.0, 200.0, 0.0]])
    teacher = inputs_of(torch.tensor([[0.6, 0.3], [0.6, 0.3]]).log(), torch.tensor([[0, 1], [0, 1]]))
    loss, gradient = evaluate(TopKCrossEntropy(form=form), logits, teacher)
    expected = naive_losses(logits.double(), teacher, form)
    assert gradient.isfinite().all()
    assert loss.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    vocabulary=st.integers(2, 60),
    data=st.data(),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 2**31),
)
def test_any_shape_equals_the_definition(
    rows: int, vocabulary: int, data: st.DataObject, form: TopKForm, seed: int
) -> None:
    k = data.draw(st.integers(1, vocabulary))
    draw = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(rows, vocabulary, generator=draw, dtype=torch.float64)
    logprobs, ids = teacher_top_k(4 * torch.randn(rows, vocabulary, generator=draw), k)
    padded = torch.rand(rows, k, generator=draw) < 0.2
    teacher = inputs_of(
        logprobs.double().masked_fill(padded, -torch.inf), ids.to(torch.int32).masked_fill(padded, 0)
    )
    leaf = logits.clone().requires_grad_()
    expected = naive_losses(leaf, teacher, form)
    (grad,) = torch.autograd.grad(expected.sum(), leaf)
    for evaluate in (by_autograd, analytically):
        loss, gradient = evaluate(TopKCrossEntropy(form=form), logits, teacher)
        assert torch.allclose(loss, expected.detach(), rtol=1e-10, atol=1e-12)
        assert torch.allclose(gradient, grad, rtol=1e-9, atol=1e-10)


def test_coefficients_scale_the_analytic_gradient_row_by_row() -> None:
    logits = torch.randn(20, 11, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    logprobs, ids = teacher_top_k(torch.randn(20, 11, generator=torch.Generator().manual_seed(9)), 3)
    coefficients = torch.linspace(-1, 2, 20, dtype=torch.float64)
    for form in FORMS:
        loss, work = TopKCrossEntropy(form=form), logits.clone()
        loss.gradient_(work, inputs_of(logprobs, ids), coefficients)
        _, plain = by_autograd(loss, logits, inputs_of(logprobs, ids))
        assert torch.allclose(work, plain * coefficients[:, None], rtol=1e-10, atol=1e-12)


def test_positions_without_teacher_logprobs_are_rejected() -> None:
    with pytest.raises(ValueError, match="needs teacher_logprobs"):
        TopKCrossEntropy()(torch.zeros(2, 3), LossInputs(sampled_ids=torch.zeros(2, dtype=torch.int64)))


@pytest.mark.parametrize("wrap", [lambda loss: loss, ByGraph])
@pytest.mark.parametrize("form", FORMS)
def test_as_a_divergence_it_is_the_cross_entropy_without_the_entropy_of_its_weights(
    form: TopKForm, wrap
) -> None:
    draw = torch.Generator().manual_seed(11)
    logits = 2 * torch.randn(9, 12, generator=draw, dtype=torch.float64)
    logprobs, ids = teacher_top_k(2 * torch.randn(9, 12, generator=draw), 4)
    inputs = LossInputs(
        sampled_ids=torch.zeros(9, dtype=torch.int64), teacher_logprobs=logprobs.double(), teacher_ids=ids
    )
    plain, gradient = with_gradient(wrap(TopKCrossEntropy(form=form)), logits, inputs)
    values, same = with_gradient(wrap(TopKCrossEntropy(form=form, as_kl=True)), logits, inputs)
    weights = logprobs.double().exp()
    weights = weights / weights.sum(-1, keepdim=True) if form == "teacher_renormalised" else weights
    if form == "tail_bucket":
        weights = torch.cat([weights, 1 - weights.sum(-1, keepdim=True)], dim=-1)
    entropy = -(weights * weights.log()).sum(-1)
    torch.testing.assert_close(values.losses, plain.losses - entropy, rtol=1e-9, atol=1e-12)
    assert torch.equal(gradient, same)
    assert torch.equal(values.diagnostics["forward_kl"], values.losses.detach())
    if form != "unnormalised":
        assert (values.losses > 0).all()


@pytest.mark.parametrize("wrap", [lambda loss: loss, ByGraph])
def test_a_student_with_the_teachers_renormalised_distribution_has_no_divergence(wrap) -> None:
    # one token holds all of the teacher's mass; and padding alone
    inputs = LossInputs(
        sampled_ids=torch.zeros(2, dtype=torch.int64),
        teacher_logprobs=torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]], dtype=torch.float64),
        teacher_ids=torch.tensor([[1, 0], [0, 0]]),
    )
    logits = torch.tensor([[-50.0, 50.0, -50.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    values, gradient = with_gradient(wrap(TopKCrossEntropy(as_kl=True)), logits, inputs)
    assert values.losses.abs().max() < 1e-12 and gradient.abs().max() < 1e-12
