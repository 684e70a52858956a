"""The loss against several teachers: by hand, against each teacher alone in float64, and bitwise for equal teachers."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from torch import Tensor

from training.algorithms.base import Term
from training.algorithms.losses import (
    GeneralisedJSD,
    PolicyGradient,
    ReferenceKL,
    TopKCrossEntropy,
    build_loss,
)
from training.algorithms.token_weights import TeacherUncertain
from training.losses.base import AnalyticTokenLoss, LossInputs, TokenLoss
from training.losses.mixture import OfTeachers

T, V, K, N = 11, 13, 4, 3
TOP_K = (Term(loss=TopKCrossEntropy()),)
AS_EOPD = (
    Term(loss=PolicyGradient()),
    Term(loss=TopKCrossEntropy(as_kl=True), weight=0.7, token_weight=TeacherUncertain()),
    Term(loss=ReferenceKL(), weight=0.1),
)
FULL = (Term(loss=GeneralisedJSD(beta=0.5)),)


def drawn(*, full: bool = False, dtype: torch.dtype = torch.float64) -> tuple[Tensor, LossInputs, Tensor]:
    """Return logits [T, V], the inputs of N teachers, and coefficients [T]."""
    torch.manual_seed(3)
    teachers = torch.randn(T, N, V, dtype=dtype).log_softmax(-1)
    top = teachers.topk(K)
    factors = torch.rand(T, N, dtype=dtype) + 0.1
    factors[2, 1] = factors[5, 0] = factors[5, 2] = 0.0
    inputs = LossInputs(
        sampled_ids=torch.randint(V, (T,)),
        teacher_logprobs=teachers if full else top.values,
        teacher_ids=None if full else top.indices,
        rollout_logprobs=-torch.rand(T, dtype=dtype) - 1.0,
        reference_logprobs=-torch.rand(T, dtype=dtype) - 1.0,
        advantages=torch.randn(T, N, dtype=dtype),
        term_weights=(torch.rand(T, N, 1) > 0.4).to(dtype),
        teacher_factors=factors / factors.sum(1, keepdim=True),
    )
    return torch.randn(T, V, dtype=dtype), inputs, torch.rand(T, dtype=dtype)


def of_one(inputs: LossInputs, teacher: int) -> LossInputs:
    assert inputs.teacher_logprobs is not None and inputs.advantages is not None
    assert inputs.term_weights is not None
    return replace(
        inputs,
        teacher_factors=None,
        teacher_logprobs=inputs.teacher_logprobs[:, teacher],
        teacher_ids=None if inputs.teacher_ids is None else inputs.teacher_ids[:, teacher],
        advantages=inputs.advantages[:, teacher],
        term_weights=inputs.term_weights[:, teacher],
    )


def by_autograd(
    loss: TokenLoss, logits: Tensor, inputs: LossInputs, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the losses [T], and the gradient [T, V] of their sum times the weights."""
    leaf = logits.clone().requires_grad_()
    losses = loss(leaf, inputs).losses
    (gradient,) = torch.autograd.grad((losses * weights).sum(), leaf)
    return losses.detach(), gradient


@pytest.mark.parametrize("terms", [TOP_K, AS_EOPD, FULL], ids=["top_k", "eopd", "full"])
def test_loss_and_gradient_are_the_sums_of_those_against_each_teacher(terms: tuple[Term, ...]) -> None:
    logits, inputs, coefficients = drawn(full=terms is FULL)
    assert inputs.teacher_factors is not None
    alone, expected, gradient = build_loss(terms), torch.zeros(T).double(), torch.zeros(T, V).double()
    for teacher in range(N):
        factors = inputs.teacher_factors[:, teacher]
        losses, slopes = by_autograd(alone, logits, of_one(inputs, teacher), factors * coefficients)
        expected += factors * losses
        gradient += slopes
    mixed = build_loss(terms, mixed=True)
    found, slopes = by_autograd(mixed, logits, inputs, coefficients)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(slopes, gradient, rtol=1e-12, atol=1e-14)
    assert isinstance(mixed, AnalyticTokenLoss)
    overwritten = logits.clone()
    values = mixed.gradient_(overwritten, inputs, coefficients)
    torch.testing.assert_close(values.losses, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(overwritten, gradient, rtol=1e-12, atol=1e-14)


def test_a_token_by_hand() -> None:
    """q = (1/2, 1/4, 1/4); top 1 of teacher 0 is token 0, of teacher 1 token 1, so that the losses are log 2 and log 4."""
    logits = torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64).log()
    inputs = LossInputs(
        sampled_ids=torch.tensor([0]),
        teacher_logprobs=torch.tensor([[[-0.3], [-0.9]]], dtype=torch.float64),
        teacher_ids=torch.tensor([[[0], [1]]]),
        teacher_factors=torch.tensor([[0.75, 0.25]], dtype=torch.float64),
    )
    values = build_loss(TOP_K, mixed=True)(logits, inputs)
    assert values.losses.item() == pytest.approx(0.75 * log(2) + 0.25 * log(4), rel=1e-14)
    mass = 0.75 * torch.exp(torch.tensor(-0.3)) + 0.25 * torch.exp(torch.tensor(-0.9))
    assert values.diagnostics["teacher_mass"].item() == pytest.approx(mass.item(), rel=1e-6)
    gradient = logits.clone()
    OfTeachers(inner=build_loss(TOP_K)).gradient_(gradient, inputs, torch.ones(1, dtype=torch.float64))
    assert gradient[0].tolist() == pytest.approx([0.5 - 0.75, 0.25 - 0.25, 0.25], abs=1e-15)


@pytest.mark.parametrize("terms", [TOP_K, AS_EOPD, FULL], ids=["top_k", "eopd", "full"])
def test_two_equal_teachers_with_equal_factors_are_bitwise_one_teacher(terms: tuple[Term, ...]) -> None:
    logits, inputs, coefficients = drawn(full=terms is FULL, dtype=torch.float32)
    one = of_one(inputs, 0)
    fields = ("teacher_logprobs", "teacher_ids", "advantages", "term_weights")
    twice = {name: value for name in fields if (value := getattr(one, name)) is not None}
    twice = {name: torch.stack([value, value], dim=1) for name, value in twice.items()}
    two = replace(one, teacher_factors=torch.full((T, 2), 0.5), **twice)
    first, second = logits.clone(), logits.clone()
    loss, mixed = build_loss(terms), build_loss(terms, mixed=True)
    assert isinstance(loss, AnalyticTokenLoss) and isinstance(mixed, AnalyticTokenLoss)
    expected, found = loss.gradient_(first, one, coefficients), mixed.gradient_(second, two, coefficients)
    assert torch.equal(first, second) and torch.equal(expected.losses, found.losses)
    for name, values in expected.diagnostics.items():
        assert torch.equal(values.nan_to_num(-1.0), found.diagnostics[name].nan_to_num(-1.0)), name


def test_a_teacher_without_a_share_has_no_effect_whatever_its_inputs_are() -> None:
    logits, inputs, coefficients = drawn()
    assert inputs.advantages is not None and inputs.teacher_logprobs is not None
    changed = inputs.advantages.clone(), inputs.teacher_logprobs.clone()
    changed[0][5, 0], changed[1][5, 0] = torch.nan, -torch.inf
    other = replace(inputs, advantages=changed[0], teacher_logprobs=changed[1])
    loss = build_loss(AS_EOPD, mixed=True)
    for one, two in zip(
        by_autograd(loss, logits, inputs, coefficients),
        by_autograd(loss, logits, other, coefficients),
        strict=True,
    ):
        assert torch.equal(one, two) and bool(one.isfinite().all())


def test_positions_without_factors_are_refused() -> None:
    logits, inputs, _ = drawn()
    with pytest.raises(ValueError, match="a mixture of teachers needs teacher_factors"):
        build_loss(TOP_K, mixed=True)(logits, replace(inputs, teacher_factors=None))
