"""The reference KL penalty: against hand-computed values and its float64 definition, and through the chunked head."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tests.training.losses.naive import naive_losses, relative_error, teacher_top_k
from training.losses.base import AnalyticTokenLoss, LossInputs, LossOutputs, TokenLoss
from training.losses.head import chunked_head
from training.losses.token_losses import AnalyticReferenceKL, ReferenceKL, TopKCrossEntropy
from training.objectives.ablations import with_reference_kl
from training.objectives.presets import load_preset

BETA = 0.3
UOPD = load_preset("uopd")


@dataclass(frozen=True, slots=True)
class ByGraph:
    """A token loss whose gradient is computed by autograd."""

    loss: TokenLoss

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        return self.loss(logits, inputs)


def penalised(inner: TokenLoss | None = None, beta: float = BETA) -> TokenLoss:
    inner = inner or TopKCrossEntropy()
    return with_reference_kl(replace(UOPD, token_loss=inner), beta).token_loss


def nothing(logits: Tensor, inputs: LossInputs) -> LossOutputs:
    """A loss of 0, so that only the penalty remains."""
    return LossOutputs(losses=logits.sum(-1) * 0.0, diagnostics={})


def draw_inputs(logits: Tensor, *, seed: int = 0, distance: float = 0.5) -> LossInputs:
    """Sampled tokens, a teacher's top 6, and a reference whose logits differ by `distance` from the given ones [T, V]."""
    draw = torch.Generator().manual_seed(seed)
    count, vocabulary = logits.shape
    sampled = torch.randint(vocabulary, (count,), generator=draw)
    start = logits.double() + distance * torch.randn(count, vocabulary, generator=draw, dtype=torch.float64)
    logprobs, ids = teacher_top_k(2 * torch.randn(count, vocabulary, generator=draw), 6)
    own = (
        start.log_softmax(-1)
        .gather(-1, sampled[:, None])[:, 0]
        .to(torch.promote_types(logits.dtype, torch.float32))
    )
    return LossInputs(sampled_ids=sampled, teacher_logprobs=logprobs, teacher_ids=ids, reference_logprobs=own)


def naive_penalty(logits: Tensor, inputs: LossInputs) -> Tensor:
    """Return exp(d) - d - 1 [T], with d from the full softmax of float64 logits."""
    assert inputs.reference_logprobs is not None
    own = logits.log_softmax(-1)[torch.arange(len(logits)), inputs.sampled_ids]
    behind = inputs.reference_logprobs.double() - own
    return behind.exp() - behind - 1


def grad_of(
    loss: TokenLoss, logits: Tensor, inputs: LossInputs, coefficients: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the losses and the gradient of their weighted sum: analytic if the loss has one, else by autograd."""
    leaf = logits.detach().clone()
    if isinstance(loss, AnalyticTokenLoss):
        return loss.gradient_(leaf, inputs, coefficients).losses, leaf
    values = loss(leaf.requires_grad_(), inputs)
    (grad,) = torch.autograd.grad((values.losses * coefficients).sum(), leaf)
    return values.losses.detach(), grad


BOTH = pytest.mark.parametrize("wrap", [lambda loss: loss, ByGraph])


@BOTH
def test_a_token_twice_as_likely_in_the_reference_by_hand(wrap) -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log() + 3.0
    inputs = LossInputs(
        sampled_ids=torch.tensor([1]),
        teacher_logprobs=torch.zeros(1, 1, dtype=torch.float64),
        teacher_ids=torch.tensor([[0]]),
        reference_logprobs=torch.tensor([0.5], dtype=torch.float64).log(),
    )
    loss, grad = grad_of(
        penalised(wrap(TopKCrossEntropy())), logits, inputs, torch.ones(1, dtype=torch.float64)
    )
    # d = log 2: exp(d) - d - 1 = 1 - log 2, with gradient (2 - 1)(q - e_1); the teacher's token adds log 2 and q - e_0
    assert loss.item() == pytest.approx(math.log(2) + BETA * (1 - math.log(2)), abs=1e-14)
    expected = [-0.5 + BETA * 0.5, 0.25 - BETA * 0.75, 0.125 * (1 + BETA), 0.125 * (1 + BETA)]
    assert grad[0].tolist() == pytest.approx(expected, abs=1e-14)


@BOTH
@pytest.mark.parametrize("form", ["teacher_renormalised", "tail_bucket"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_loss_and_gradient_equal_the_definition(wrap, form, dtype: torch.dtype, tolerance: float) -> None:
    logits = 3 * torch.randn(40, 50, generator=torch.Generator().manual_seed(1), dtype=dtype)
    inputs = draw_inputs(logits)
    coefficients = torch.linspace(-1, 2, 40, dtype=dtype)
    leaf = logits.double().requires_grad_()
    exact = naive_losses(leaf, inputs, form) + BETA * naive_penalty(leaf, inputs)
    (expected,) = torch.autograd.grad((exact * coefficients.double()).sum(), leaf)
    loss, grad = grad_of(penalised(wrap(TopKCrossEntropy(form=form))), logits, inputs, coefficients)
    assert relative_error(loss, exact) < tolerance
    assert relative_error(grad, expected) < tolerance


@BOTH
def test_the_initial_student_has_no_penalty_and_no_gradient(wrap) -> None:
    logits = 3 * torch.randn(20, 50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs, ones = draw_inputs(logits, distance=0.0), torch.ones(20, dtype=torch.float64)
    inner = wrap(TopKCrossEntropy())
    plain_loss, plain_grad = grad_of(inner, logits, inputs, ones)
    loss, grad = grad_of(penalised(inner), logits, inputs, ones)
    assert (loss - plain_loss).abs().max() < 1e-14 and (grad - plain_grad).abs().max() < 1e-14
    assert penalised(nothing)(logits, inputs).losses.abs().max() < 1e-28  # quadratic in the rounding of d


def test_over_the_students_own_samples_its_mean_is_the_divergence_from_the_reference() -> None:
    """Every token once, weighted by the student's probability: the mean is KL(q || p), the mean gradient that of KL(p || q)."""
    draw = torch.Generator().manual_seed(3)
    logits, start = 2 * torch.randn(2, 12, generator=draw, dtype=torch.float64)
    q, p = logits.softmax(-1), start.softmax(-1)
    inputs = LossInputs(sampled_ids=torch.arange(12), reference_logprobs=p.log())
    loss, grad = grad_of(penalised(nothing, beta=1.0), logits.expand(12, 12), inputs, q)
    assert (q * loss).sum().item() == pytest.approx((q * (q / p).log()).sum().item(), rel=1e-12)
    assert torch.allclose(grad.sum(0), q - p, rtol=0, atol=1e-14)


@BOTH
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 5e-3)]
)
def test_the_chunked_head_gives_the_result_of_full_logits(wrap, dtype: torch.dtype, tolerance: float) -> None:
    draw = torch.Generator().manual_seed(4)
    states = torch.randn(70, 64, generator=draw).to(dtype)
    head = (torch.randn(400, 64, generator=draw) / 9).to(dtype)
    inputs = draw_inputs((states.double() @ head.double().T).float())
    coefficients = torch.linspace(0, 1, 70) / 70
    leaves = [tensor.detach().double().requires_grad_() for tensor in (states, head)]
    logits = leaves[0] @ leaves[1].T
    exact = naive_losses(logits, inputs, "teacher_renormalised") + BETA * naive_penalty(logits, inputs)
    expected = torch.autograd.grad((exact * coefficients.double()).sum(), leaves)
    hidden, weight = (tensor.clone().requires_grad_() for tensor in (states, head))
    loss = penalised(wrap(TopKCrossEntropy()))
    assert isinstance(loss, AnalyticTokenLoss) is (wrap is not ByGraph)
    result = chunked_head(hidden, weight, loss, inputs, coefficients, chunk_size=20)
    result.loss.backward()
    assert hidden.grad is not None and weight.grad is not None
    assert relative_error(result.loss, (exact * coefficients.double()).sum()) < tolerance
    assert relative_error(hidden.grad, expected[0]) < tolerance
    assert relative_error(weight.grad, expected[1]) < tolerance
    seen = result.diagnostics
    assert {"reference_kl", "entropy", "sampled_logprob"} <= seen.keys() and seen["reference_kl"][0].isnan()
    assert relative_error(seen["reference_kl"][1:], naive_penalty(logits, inputs)[1:]) < 10 * tolerance


def test_a_skipped_position_cannot_propagate_nan_from_the_reference() -> None:
    draw = torch.Generator().manual_seed(5)
    states, head = torch.randn(3, 8, generator=draw), torch.randn(30, 8, generator=draw)
    inputs = draw_inputs(states @ head.T)
    assert inputs.reference_logprobs is not None
    inputs.reference_logprobs[1] = torch.nan
    hidden = states.requires_grad_()
    result = chunked_head(hidden, head, penalised(ByGraph(nothing)), inputs, torch.tensor([1.0, 0.0, 1.0]))
    result.loss.backward()
    assert hidden.grad is not None and result.loss.isfinite() and hidden.grad.isfinite().all()


def test_positions_slice_and_check_the_reference() -> None:
    inputs = LossInputs(sampled_ids=torch.arange(4), reference_logprobs=-torch.arange(4.0))
    part = inputs.rows(torch.tensor([3, 1])).to("cpu")
    assert part.reference_logprobs is not None and part.reference_logprobs.tolist() == [-3.0, -1.0]
    moved = inputs.to("meta").reference_logprobs
    assert moved is not None and moved.is_meta
    with pytest.raises(ValueError, match="reference_logprobs has 3 rows for 4"):
        replace(inputs, reference_logprobs=torch.zeros(3))


@BOTH
def test_the_penalty_without_reference_logprobs_raises(wrap) -> None:
    logits = torch.zeros(2, 9)
    inputs = replace(draw_inputs(logits), reference_logprobs=None)
    with pytest.raises(ValueError, match="needs reference_logprobs"):
        grad_of(penalised(wrap(TopKCrossEntropy())), logits, inputs, torch.ones(2))


def test_only_a_coefficient_above_0_needs_a_reference() -> None:
    assert with_reference_kl(UOPD, 0.0) is UOPD
    analytic = with_reference_kl(UOPD, 0.05)
    assert analytic.token_loss == AnalyticReferenceKL(inner=TopKCrossEntropy(), coefficient=0.05)
    assert analytic.needs == replace(UOPD.needs, reference_model=True) and not UOPD.needs.reference_model
    graph = with_reference_kl(replace(UOPD, token_loss=nothing), 0.05).token_loss
    assert graph == ReferenceKL(inner=nothing, coefficient=0.05) and not isinstance(graph, AnalyticTokenLoss)
