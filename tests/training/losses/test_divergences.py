"""The generalised Jensen-Shannon divergence: against hand-computed values, its definition in float64 and TRL; infinite logs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training.losses.naive import relative_error, teacher_top_k
from training.losses.base import AnalyticTokenLoss, LossInputs, LossOutputs, TokenLoss
from training.losses.combined import Combined
from training.losses.divergences import GeneralisedJSD
from training.losses.head import chunked_head
from training.losses.sampled_losses import FromSampled, ReferenceKL
from training.losses.token_losses import TopKCrossEntropy

BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)
INF = math.inf

LN3 = math.log(3)
# Teacher p = (1/2, 1/2), student q = (1/4, 3/4); the gradient's second entry is the first one's negative.
HAND = {
    # 1/2 log 2 + 1/2 log(2/3); q - p
    0.0: (math.log(4 / 3) / 2, -1 / 4),
    # m = 1/4 p + 3/4 q = (5/16, 11/16): 1/4 [1/2 log(8/5) + 1/2 log(8/11)] + 3/4 [1/4 log(4/5) + 3/4 log(12/11)];
    # 3/4 q_1 (log(4/5) - KL(q || m)) = 3/4 x 1/4 x 3/4 (log(4/5) - log(12/11))
    0.25: (
        math.log(64 / 55) / 8 + 3 / 16 * math.log(4 / 5) + 9 / 16 * math.log(12 / 11),
        9 / 64 * math.log(11 / 15),
    ),
    # m = (3/8, 5/8): 1/2 [1/2 log(4/3) + 1/2 log(4/5)] + 1/2 [1/4 log(2/3) + 3/4 log(6/5)];
    # 1/2 q_1 (log(2/3) - KL(q || m)) = 1/2 x 1/4 x 3/4 (log(2/3) - log(6/5))
    0.5: (math.log(16 / 15) / 4 + math.log(2 / 3) / 8 + 3 / 8 * math.log(6 / 5), 3 / 32 * math.log(5 / 9)),
    # 1/4 log(1/2) + 3/4 log(3/2); q_1 (log(1/2) - KL(q || p)) = 1/4 x 3/4 (log(1/2) - log(3/2))
    1.0: (3 / 4 * LN3 - math.log(2), -3 / 16 * LN3),
}


def inputs_of(logprobs: Tensor, sampled: Tensor | None = None) -> LossInputs:
    """Positions with these teacher log-probabilities [T, V]."""
    ids = torch.zeros(len(logprobs), dtype=torch.int64) if sampled is None else sampled
    return LossInputs(sampled_ids=ids, teacher_logprobs=logprobs)


def drawn(rows: int, vocabulary: int, *, seed: int = 0, dtype: Any = torch.float64) -> tuple[Tensor, Tensor]:
    """Random student logits and teacher log-probabilities, [rows, vocabulary] each."""
    draw = torch.Generator().manual_seed(seed)
    logits, teacher = 2 * torch.randn(2, rows, vocabulary, generator=draw, dtype=torch.float64)
    return logits.to(dtype), teacher.log_softmax(-1).to(torch.promote_types(dtype, torch.float32))


def naive_kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first || second) of two rows of probabilities; outcomes with probability 0 in the first do not count."""
    there = first > 0
    return (first[there] * (first[there].log() - second[there].log())).sum()


def naive_losses(logits: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Return the divergence [T] by its float64 definition, with a mixture of probabilities."""
    rows = []
    for q, p in zip(logits.double().softmax(-1), teacher.double().exp(), strict=True):
        m = beta * p + (1 - beta) * q
        if beta in (0.0, 1.0):
            rows.append(naive_kl(p, q) if beta == 0.0 else naive_kl(q, p))
        else:
            rows.append(beta * naive_kl(p, m) + (1 - beta) * naive_kl(q, m))
    return torch.stack(rows)


def naive_grad(logits: Tensor, teacher: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the losses by the definition and the gradient of their sum."""
    leaf = logits.detach().double().requires_grad_()
    losses = naive_losses(leaf, teacher, beta)
    (grad,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), grad


def by_autograd(loss: TokenLoss, logits: Tensor, inputs: LossInputs) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    values = loss(leaf, inputs)
    values.losses.sum().backward()
    assert leaf.grad is not None
    return values.losses.detach(), leaf.grad


def analytically(loss: AnalyticTokenLoss, logits: Tensor, inputs: LossInputs) -> tuple[Tensor, Tensor]:
    work = logits.detach().clone()
    values = loss.gradient_(work, inputs, torch.ones(len(work), dtype=work.dtype))
    return values.losses, work


@dataclass(frozen=True, slots=True)
class ByGraph:
    """A token loss whose gradient is computed by autograd."""

    loss: TokenLoss

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        return self.loss(logits, inputs)


BOTH = pytest.mark.parametrize("evaluate", [by_autograd, analytically])
EVERY_BETA = pytest.mark.parametrize("beta", BETAS)


@BOTH
@pytest.mark.parametrize("beta", HAND)
def test_two_tokens_computed_by_hand(beta: float, evaluate) -> None:
    logits = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log() + 3.0
    teacher = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    loss, gradient = evaluate(GeneralisedJSD(beta=beta), logits, inputs_of(teacher))
    expected, grad = HAND[beta]
    assert loss.item() == pytest.approx(expected, abs=1e-14)
    assert gradient[0].tolist() == pytest.approx([grad, -grad], abs=1e-14)


def test_diagnostics_computed_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125, 0.0]], dtype=torch.float64).log() - 2.0
    teacher = torch.tensor([[0.5, 0.5, 0.0, 0.0, 0.0]], dtype=torch.float64).log()
    inputs = inputs_of(teacher, torch.tensor([3]))
    bits = {"entropy": 1.75, "teacher_entropy": 1.0, "sampled_logprob": -3.0}
    expected = {name: value * math.log(2) for name, value in bits.items()}
    for beta in BETAS:
        loss = GeneralisedJSD(beta=beta)
        assert isinstance(loss, AnalyticTokenLoss)
        leaf = logits.clone().requires_grad_()
        for values in (loss(leaf, inputs), loss.gradient_(logits.clone(), inputs, torch.ones(1))):
            seen = {name: value.item() for name, value in values.diagnostics.items()}
            assert seen == pytest.approx(expected)
            assert not any(value.requires_grad for value in values.diagnostics.values())


@BOTH
@EVERY_BETA
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_loss_and_gradient_equal_the_definition(dtype, tolerance: float, beta: float, evaluate) -> None:
    logits, teacher = drawn(40, 50, dtype=dtype)
    expected, grad = naive_grad(logits, teacher, beta)
    loss, gradient = evaluate(GeneralisedJSD(beta=beta), logits, inputs_of(teacher))
    assert (loss.dtype, gradient.dtype) == (dtype, dtype)
    assert relative_error(loss, expected) < tolerance
    assert relative_error(gradient, grad) < tolerance


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    vocabulary=st.integers(1, 60),
    beta=st.sampled_from((0.0, 1.0)) | st.floats(1e-6, 1.0 - 1e-6),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_beta_equal_the_definition(rows: int, vocabulary: int, beta: float, seed: int) -> None:
    logits, teacher = drawn(rows, vocabulary, seed=seed)
    expected, grad = naive_grad(logits, teacher, beta)
    for evaluate in (by_autograd, analytically):
        loss, gradient = evaluate(GeneralisedJSD(beta=beta), logits, inputs_of(teacher))
        assert torch.allclose(loss, expected, rtol=1e-9, atol=1e-13)
        assert torch.allclose(gradient, grad, rtol=1e-8, atol=1e-13)


@EVERY_BETA
def test_the_gradient_matches_finite_differences(beta: float) -> None:
    logits, teacher = drawn(3, 7, seed=1)
    loss, step = GeneralisedJSD(beta=beta), 1e-5
    _, gradient = analytically(loss, logits, inputs_of(teacher))
    for column in range(7):
        moved = torch.zeros(7, dtype=torch.float64)
        moved[column] = step
        ahead, behind = (loss(logits + side * moved, inputs_of(teacher)).losses for side in (1, -1))
        assert torch.allclose((ahead - behind) / (2 * step), gradient[:, column], rtol=1e-7, atol=1e-9)


# --- properties of a divergence ----------------------------------------------------------------------------------


@BOTH
@EVERY_BETA
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(
    dtype, most, beta: float, evaluate
) -> None:
    logits, _ = drawn(20, 50, seed=2, dtype=dtype)
    loss, gradient = evaluate(GeneralisedJSD(beta=beta), logits, inputs_of(logits.log_softmax(-1)))
    assert loss.abs().max() < most and gradient.abs().max() < most


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.25, 0.5])
def test_swapping_both_distributions_swaps_beta_and_its_complement(beta: float) -> None:
    """At 1/2 this is the symmetry of the Jensen-Shannon divergence; at 0 forward KL becomes reverse KL."""
    logits, teacher = drawn(30, 40, seed=3)
    one = GeneralisedJSD(beta=beta)(logits, inputs_of(teacher)).losses
    other = GeneralisedJSD(beta=1.0 - beta)(teacher, inputs_of(logits.log_softmax(-1))).losses
    assert one.min() > 0.01
    assert torch.allclose(one, other, rtol=1e-12, atol=0.0)


def test_close_to_an_end_it_is_the_divergence_of_that_end_times_the_distance() -> None:
    logits, teacher = drawn(30, 40, seed=4)
    near, forward, reverse, far = (
        GeneralisedJSD(beta=beta)(logits, inputs_of(teacher)).losses for beta in (1e-9, 0.0, 1.0, 1.0 - 1e-9)
    )
    assert torch.allclose(near / 1e-9, forward, rtol=1e-5)
    assert torch.allclose(far / 1e-9, reverse, rtol=1e-5)
    assert (forward - reverse).abs().min() > 1e-3


def test_at_one_half_it_is_log_2_for_distributions_without_a_common_token() -> None:
    logits = torch.tensor([[0.3, 0.7, 0.0, 0.0]]).log()
    teacher = torch.tensor([[0.0, 0.0, 0.9, 0.1]]).log()
    loss, gradient = analytically(GeneralisedJSD(beta=0.5), logits, inputs_of(teacher))
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    assert gradient.abs().max() < 1e-6


@BOTH
def test_at_0_it_is_the_cross_entropy_minus_the_teachers_entropy(evaluate) -> None:
    logits, teacher = drawn(40, 50, seed=5)
    loss, gradient = evaluate(GeneralisedJSD(beta=0.0), logits, inputs_of(teacher))
    cross, grad = evaluate(TopKCrossEntropy(), logits, inputs_of(teacher))
    entropy = -(teacher.exp() * teacher).sum(-1)
    assert torch.allclose(loss, cross - entropy, rtol=1e-12, atol=1e-13)
    assert torch.allclose(gradient, grad, rtol=1e-12, atol=1e-15)


# --- infinite and vanishing --------------------------------------------------------------------------------------


@BOTH
@EVERY_BETA
def test_probabilities_that_underflow_still_count(beta: float, evaluate) -> None:
    """Tokens of probability e^-400 in either distribution: 0 in float32, but with a finite logarithm."""
    logits = torch.tensor([[200.0, 190.0, -200.0, -200.0], [-200.0, -200.0, 200.0, 0.0]])
    teacher = torch.tensor([[-200.0, 200.0, -200.0, 199.0], [200.0, 198.0, -200.0, 0.0]]).log_softmax(-1)
    expected, grad = naive_grad(logits, teacher, beta)
    loss, gradient = evaluate(GeneralisedJSD(beta=beta), logits, inputs_of(teacher))
    assert torch.allclose(loss.double(), expected, rtol=1e-6)
    rounding = 1e-7 * max(1.0, expected.max().item())  # of the logarithms whose difference is the gradient
    assert torch.allclose(gradient.double(), grad, rtol=1e-6, atol=rounding)


@BOTH
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9])
def test_tokens_excluded_by_the_teacher_have_probability_0(beta: float, evaluate) -> None:
    logits, teacher = drawn(20, 30, seed=6)
    teacher = teacher.masked_fill(torch.arange(30) >= 22, -INF).log_softmax(-1)
    expected, grad = naive_grad(logits, teacher, beta)
    loss, gradient = evaluate(GeneralisedJSD(beta=beta), logits, inputs_of(teacher))
    assert torch.allclose(loss, expected, rtol=1e-11) and torch.allclose(
        gradient, grad, rtol=1e-9, atol=1e-14
    )


@BOTH
def test_reverse_kl_to_a_teacher_that_excludes_a_token_is_infinite_without_nan(evaluate) -> None:
    logits, teacher = drawn(3, 30, seed=7)
    expected, grad = evaluate(GeneralisedJSD(beta=1.0), logits, inputs_of(teacher))
    ruled_out = teacher.clone()
    ruled_out[1, 5] = -INF
    loss, gradient = evaluate(GeneralisedJSD(beta=1.0), logits, inputs_of(ruled_out))
    assert loss[1] == INF and gradient[1].abs().max() < 1e-16
    assert torch.equal(loss[::2], expected[::2]) and torch.equal(gradient[::2], grad[::2])


@BOTH
@EVERY_BETA
def test_a_token_excluded_by_both_has_no_effect(beta: float, evaluate) -> None:
    logits, teacher = drawn(20, 30, seed=8)
    nobody = torch.full((20, 4), -INF, dtype=torch.float64)
    expected, grad = evaluate(GeneralisedJSD(beta=beta), logits, inputs_of(teacher))
    loss, gradient = evaluate(
        GeneralisedJSD(beta=beta), torch.cat([logits, nobody], 1), inputs_of(torch.cat([teacher, nobody], 1))
    )
    assert torch.allclose(loss, expected, rtol=1e-12) and torch.allclose(gradient[:, :30], grad, atol=1e-14)
    assert (gradient[:, 30:] == 0).all()


@BOTH
@EVERY_BETA
def test_a_token_excluded_only_by_the_student_makes_only_forward_kl_infinite(beta: float, evaluate) -> None:
    """Student (1/3, 2/3, 0), teacher (1/4, 1/4, 1/2)."""
    logits = torch.tensor([[1 / 3, 2 / 3, 0.0]], dtype=torch.float64).log()
    teacher = torch.tensor([[1 / 4, 1 / 4, 1 / 2]], dtype=torch.float64).log()
    loss, gradient = evaluate(GeneralisedJSD(beta=beta), logits, inputs_of(teacher))
    if beta == 0.0:
        assert loss.item() == INF
        assert gradient[0].tolist() == pytest.approx([1 / 12, 5 / 12, -1 / 2], abs=1e-15)  # q - p
    else:
        expected, grad = naive_grad(logits, teacher, beta)
        assert expected.isfinite().all() and torch.allclose(loss, expected, rtol=1e-12)
        assert grad[0, 0] < -0.001 and torch.allclose(gradient, grad, rtol=1e-12, atol=1e-15)


def test_coefficients_scale_the_analytic_gradient_row_by_row() -> None:
    logits, teacher = drawn(40, 11, seed=9)
    coefficients = torch.linspace(-1, 2, 40, dtype=torch.float64)
    for beta in BETAS:
        loss, work = GeneralisedJSD(beta=beta), logits.clone()
        values = loss.gradient_(work, inputs_of(teacher), coefficients)
        plain, grad = by_autograd(loss, logits, inputs_of(teacher))
        assert torch.allclose(values.losses, plain, rtol=1e-12)
        assert torch.allclose(work, grad * coefficients[:, None], rtol=1e-10, atol=1e-13)


# --- through the head --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Responses of three prompts, an LM head, and the teacher's full distribution at every position."""

    hidden: Tensor
    weight: Tensor
    inputs: LossInputs
    coefficients: Tensor

    @property
    def teacher(self) -> Tensor:
        assert self.inputs.teacher_logprobs is not None
        return self.inputs.teacher_logprobs


def draw_batch(dtype: torch.dtype) -> Batch:
    draw = torch.Generator().manual_seed(10)
    return Batch(
        hidden=torch.randn(70, 24, generator=draw).to(dtype),
        weight=(torch.randn(97, 24, generator=draw) / 5).to(dtype),
        inputs=inputs_of(drawn(70, 97, seed=11, dtype=dtype)[1], torch.randint(97, (70,), generator=draw)),
        coefficients=torch.tensor([0.9] * 30 + [0.0] * 13 + [0.5] * 27) / 70,
    )


def through_the_head(batch: Batch, loss: TokenLoss, **options: Any) -> tuple[Any, Tensor, Tensor]:
    """Return the head's result and its gradients with respect to hidden and weight."""
    hidden, weight = (tensor.clone().requires_grad_() for tensor in (batch.hidden, batch.weight))
    result = chunked_head(hidden, weight, loss, batch.inputs, batch.coefficients, **options)
    result.loss.backward()
    assert hidden.grad is not None and weight.grad is not None
    return result, hidden.grad, weight.grad


def naive_head(batch: Batch, beta: float, penalty: Any = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted sum by the definition on full float64 logits, plus a penalty [T], and its gradients."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in (batch.hidden, batch.weight)]
    logits = leaves[0] @ leaves[1].T
    losses = naive_losses(logits, batch.teacher, beta) + (0.0 if penalty is None else penalty(logits))
    loss = (losses * batch.coefficients.double()).sum()
    hidden, weight = torch.autograd.grad(loss, leaves)
    return loss.detach(), hidden, weight


@EVERY_BETA
@pytest.mark.parametrize("wrap", [lambda loss: loss, ByGraph])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 5e-3)]
)
def test_the_chunked_head_gives_the_result_of_full_logits(dtype, tolerance: float, wrap, beta: float) -> None:
    batch = draw_batch(dtype)
    result, hidden, weight = through_the_head(batch, wrap(GeneralisedJSD(beta=beta)), chunk_size=20)
    for got, expected in zip((result.loss, hidden, weight), naive_head(batch, beta), strict=True):
        assert relative_error(got, expected) < tolerance
    assert (hidden.dtype, weight.dtype) == (dtype, dtype)
    assert set(result.diagnostics) == {"entropy", "teacher_entropy", "sampled_logprob"}
    assert torch.equal(result.diagnostics["entropy"].isnan(), batch.coefficients == 0)


@EVERY_BETA
def test_the_padding_of_the_students_vocabulary_has_no_effect(beta: float) -> None:
    batch = draw_batch(torch.float64)
    wide = replace(batch, weight=torch.cat([batch.weight, torch.full((31, 24), 9.0, dtype=torch.float64)]))
    loss = GeneralisedJSD(beta=beta)
    result, hidden, weight = through_the_head(wide, loss, vocabulary=97)
    expected, expected_hidden, expected_weight = through_the_head(batch, loss)
    assert torch.equal(result.loss, expected.loss) and torch.equal(hidden, expected_hidden)
    assert torch.equal(weight[:97], expected_weight) and (weight[97:] == 0).all()


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_padding_columns_of_the_teacher_have_no_effect(dtype, tolerance: float, beta: float) -> None:
    batch = draw_batch(dtype)
    padded = batch.teacher.masked_fill(torch.arange(97) >= 80, -INF).log_softmax(-1)
    batch = replace(batch, inputs=replace(batch.inputs, teacher_logprobs=padded))
    result, hidden, weight = through_the_head(batch, GeneralisedJSD(beta=beta), chunk_size=20)
    for got, expected in zip((result.loss, hidden, weight), naive_head(batch, beta), strict=True):
        assert relative_error(got, expected) < tolerance


@EVERY_BETA
def test_it_equals_trls_divergence_and_gradients(beta: float) -> None:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    batch, draw = draw_batch(torch.float32), torch.Generator().manual_seed(12)
    states, head = torch.randn(70, 24, generator=draw), torch.randn(97, 24, generator=draw) / 3
    batch = replace(
        batch,
        inputs=inputs_of((states @ head.T).log_softmax(-1), batch.inputs.sampled_ids),
        coefficients=torch.linspace(0.1, 1, 70) / 70,
    )
    result, hidden, weight = through_the_head(batch, GeneralisedJSD(beta=beta))
    leaves = (batch.hidden.clone().requires_grad_(), batch.weight.clone().requires_grad_())
    theirs, entropy = ChunkedDivergenceFunction.apply(*leaves, None, states, head, None, beta)
    (theirs * batch.coefficients).sum().backward()
    assert torch.allclose(result.token_losses, theirs.detach(), rtol=1e-5, atol=1e-6)
    assert torch.allclose(result.diagnostics["entropy"], entropy, rtol=1e-5)
    for got, leaf in zip((hidden, weight), leaves, strict=True):
        assert leaf.grad is not None and relative_error(got, leaf.grad) < 2e-6


@EVERY_BETA
@pytest.mark.parametrize("temperature", [1.0, 1.1, 0.5])
def test_it_equals_the_loss_of_trls_gkd_trainer(
    monkeypatch: pytest.MonkeyPatch, beta: float, temperature: float
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    logits, teacher = drawn(40, 50, seed=13)
    ours = GeneralisedJSD(beta=beta, temperature=temperature)
    loss, gradient = analytically(ours, logits, inputs_of(teacher))
    leaf = logits.clone().requires_grad_()
    theirs = GKDTrainer.generalized_jsd_loss(
        leaf[None], teacher[None], beta=beta, temperature=temperature, reduction="sum"
    )
    assert isinstance(theirs, Tensor)
    theirs.backward()
    assert leaf.grad is not None
    assert loss.sum().item() == pytest.approx(theirs.item(), rel=1e-12)
    assert relative_error(gradient, leaf.grad) < 1e-12


# --- with other losses, and with less than it needs ---------------------------------------------------------------


@EVERY_BETA
@pytest.mark.parametrize("wrap", [lambda loss: loss, ByGraph])
def test_the_reference_kl_adds_to_it(wrap, beta: float) -> None:
    batch = draw_batch(torch.float64)
    sampled, draw = batch.inputs.sampled_ids, torch.Generator().manual_seed(14)
    start = -5 * torch.rand(70, generator=draw, dtype=torch.float64)
    batch = replace(batch, inputs=replace(batch.inputs, reference_logprobs=start))

    def penalty(logits: Tensor) -> Tensor:
        behind = start - logits.log_softmax(-1)[torch.arange(70), sampled]
        return 0.3 * (behind.exp() - behind - 1)

    loss = Combined(terms=((1.0, wrap(GeneralisedJSD(beta=beta))), (0.3, FromSampled(loss=ReferenceKL()))))
    result, hidden, weight = through_the_head(batch, loss, chunk_size=20)
    for got, expected in zip((result.loss, hidden, weight), naive_head(batch, beta, penalty), strict=True):
        assert relative_error(got, expected) < 1e-12
    assert {"reference_kl", "teacher_entropy", "sampled_logprob"} <= result.diagnostics.keys()


@BOTH
def test_less_than_the_teachers_full_distribution_is_rejected(evaluate) -> None:
    logits, teacher = drawn(4, 30, seed=15)
    logprobs, ids = teacher_top_k(teacher, 6)
    loss, sampled = GeneralisedJSD(beta=0.5), torch.zeros(4, dtype=torch.int64)
    for inputs, message in [
        (LossInputs(sampled_ids=sampled), "the divergence needs teacher_logprobs"),
        (
            LossInputs(sampled_ids=sampled, teacher_logprobs=logprobs, teacher_ids=ids),
            "needs the teacher's full distribution, but has only its 6 most probable tokens: set top_k to full",
        ),
        (inputs_of(teacher[:, :29]), r"have shape \(4, 29\), but the logits \(4, 30\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(loss, logits, inputs)
