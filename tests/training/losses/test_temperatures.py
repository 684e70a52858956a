"""Temperature of the top-k cross-entropy and of the divergences, and the entry clip: by hand and against float64 definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.training.losses.evaluating import ByGraph, through_the_head, with_gradient
from tests.training.losses.naive import relative_error, teacher_top_k
from training.losses.base import LossInputs, LossOutputs, TokenLoss
from training.losses.divergences import GeneralisedJSD
from training.losses.token_losses import TopKCrossEntropy

T, V, K = 40, 50, 6
LN2, INF = math.log(2), math.inf
BOTH = pytest.mark.parametrize("wrap", [lambda loss: loss, ByGraph])
TEMPERATURES = pytest.mark.parametrize("temperature", [0.5, 1.1, 2.0])


def drawn(*, top_k: int | None, dtype: torch.dtype = torch.float64) -> tuple[Tensor, LossInputs]:
    """Student logits, and the teacher's top k or full distribution."""
    draw = torch.Generator().manual_seed(7)
    logits, teacher = 2 * torch.randn(2, T, V, generator=draw, dtype=torch.float64)
    sampled = torch.randint(V, (T,), generator=draw)
    logprobs, ids = (teacher.log_softmax(-1), None) if top_k is None else teacher_top_k(teacher, top_k)
    return logits.to(dtype), LossInputs(sampled_ids=sampled, teacher_logprobs=logprobs, teacher_ids=ids)


def naive_cross_entropy(logits: Tensor, inputs: LossInputs, temperature: float) -> Tensor:
    """-sum_j p_j log q_j, with p_j ~ exp(log p_j / T) over the teacher's k entries and q the softmax of logits / T."""
    assert inputs.teacher_logprobs is not None and inputs.teacher_ids is not None
    rows = []
    for row, logprobs, ids in zip(
        logits.double(), inputs.teacher_logprobs.double(), inputs.teacher_ids, strict=True
    ):
        powers = logprobs.exp() ** (1 / temperature)
        q = torch.exp(row / temperature) / torch.exp(row / temperature).sum()
        rows.append(-(powers / powers.sum() * q[ids].log()).sum())
    return torch.stack(rows)


def naive_forward_kl(logits: Tensor, inputs: LossInputs, temperature: float, clip: float) -> Tensor:
    """sum_v min(p_v log(p_v / q_v), clip), entry by entry."""
    assert inputs.teacher_logprobs is not None
    rows = []
    for row, logprobs in zip(logits.double(), inputs.teacher_logprobs.double(), strict=True):
        powers = logprobs.exp() ** (1 / temperature)
        p = powers / powers.sum()
        q = torch.exp(row / temperature) / torch.exp(row / temperature).sum()
        terms = [p_v * torch.log(p_v / q_v) for p_v, q_v in zip(p, q, strict=True) if p_v > 0]
        rows.append(torch.stack([term if term <= clip else term.detach() * 0 + clip for term in terms]).sum())
    return torch.stack(rows)


def check(wrap, loss: TokenLoss, logits: Tensor, inputs: LossInputs, naive, tolerance: float) -> LossOutputs:
    """Compare values and gradient with a naive function of float64 logits; return the values."""
    coefficients = torch.linspace(-1, 2, len(logits), dtype=logits.dtype)
    leaf = logits.double().requires_grad_()
    exact = naive(leaf)
    (expected,) = torch.autograd.grad((exact * coefficients.double()).sum(), leaf)
    values, gradient = with_gradient(wrap(loss), logits, inputs, coefficients)
    assert relative_error(values.losses, exact) < tolerance
    assert relative_error(gradient, expected) < tolerance
    return values


# --- by hand -----------------------------------------------------------------------------------------------------


@BOTH
def test_the_cross_entropy_at_temperature_one_half_by_hand(wrap) -> None:
    # Student (1/2, 1/4, 1/4), at T = 1/2 squared: (4, 1, 1) / 6. Teacher's top 2: tokens 0 and 1 with 1/4 and 1/2, squared and
    # renormalised: 1/5 and 4/5. Loss 1/5 log(3/2) + 4/5 log 6; gradient 2 (q - p) = 2 (2/3 - 1/5, 1/6 - 4/5, 1/6).
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log() + 3.0
    inputs = LossInputs(
        sampled_ids=torch.tensor([2]),
        teacher_logprobs=torch.tensor([[0.5, 0.25]], dtype=torch.float64).log(),
        teacher_ids=torch.tensor([[1, 0]]),
    )
    values, gradient = with_gradient(wrap(TopKCrossEntropy(temperature=0.5)), logits, inputs)
    assert values.losses.item() == pytest.approx(math.log(1.5) / 5 + 4 / 5 * math.log(6), abs=1e-14)
    assert gradient[0].tolist() == pytest.approx([14 / 15, -19 / 15, 1 / 3], abs=1e-14)
    # diagnostics at temperature 1
    expected = {"teacher_mass": 0.75, "student_mass": 0.75, "entropy": 1.5 * LN2, "sampled_logprob": -2 * LN2}
    assert {name: seen.item() for name, seen in values.diagnostics.items()} == pytest.approx(expected)


@BOTH
def test_forward_kl_at_temperature_one_half_by_hand(wrap) -> None:
    # Student (1/3, 2/3) -> (1, 4) / 5, teacher (1/2, 1/2) -> itself: 1/2 log(5/2) + 1/2 log(5/8); gradient 2 (q - p)
    logits = torch.tensor([[1.0, 2.0]], dtype=torch.float64).log()
    inputs = LossInputs(sampled_ids=torch.tensor([0]), teacher_logprobs=torch.full((1, 2), -LN2).double())
    values, gradient = with_gradient(wrap(GeneralisedJSD(beta=0.0, temperature=0.5)), logits, inputs)
    assert values.losses.item() == pytest.approx(math.log(25 / 16) / 2, abs=1e-7)
    assert gradient[0].tolist() == pytest.approx([-0.6, 0.6], abs=1e-7)
    assert values.diagnostics["sampled_logprob"].item() == pytest.approx(-math.log(3))
    assert values.diagnostics["teacher_entropy"].item() == pytest.approx(LN2)
    assert values.diagnostics["entropy"].item() == pytest.approx(math.log(3) - 2 / 3 * LN2)


@BOTH
def test_the_entry_clip_by_hand(wrap) -> None:
    # Teacher (1/2, 1/4, 1/4), student (1/4, 1/4, 1/2): terms 1/2 log 2 = 0.347, 0, -1/4 log 2. The clip 0.05 applies to the
    # first: 0.05 - 1/4 log 2. Gradient (1/4 + 1/4) q - (0, 1/4, 1/4) = (1/8, -1/8, 0).
    logits = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64).log() - 1.0
    inputs = LossInputs(
        sampled_ids=torch.tensor([0]),
        teacher_logprobs=torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log(),
    )
    values, gradient = with_gradient(wrap(GeneralisedJSD(beta=0.0, entry_clip=0.05)), logits, inputs)
    assert values.losses.item() == pytest.approx(0.05 - LN2 / 4, abs=1e-14)
    assert gradient[0].tolist() == pytest.approx([1 / 8, -1 / 8, 0.0], abs=1e-14)
    assert values.diagnostics["clipped_mass"].item() == pytest.approx(LN2 / 2 - 0.05)
    assert values.diagnostics["clipped_share"].item() == pytest.approx(0.5)


# --- against the definitions -------------------------------------------------------------------------------------


@BOTH
@TEMPERATURES
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_cross_entropy_equals_its_definition(wrap, temperature: float, dtype, tolerance: float) -> None:
    logits, inputs = drawn(top_k=K, dtype=dtype)
    loss = TopKCrossEntropy(temperature=temperature)
    values = check(
        wrap, loss, logits, inputs, lambda leaf: naive_cross_entropy(leaf, inputs, temperature), tolerance
    )
    plain = TopKCrossEntropy()(logits, inputs).diagnostics
    for name, seen in values.diagnostics.items():
        assert torch.allclose(seen, plain[name], rtol=1e-5, atol=1e-6), name


@BOTH
@pytest.mark.parametrize("temperature", [1.0, 1.1])
@pytest.mark.parametrize("clip", [0.05, 0.3, 100.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_clipped_forward_kl_equals_its_definition(
    wrap, temperature: float, clip: float, dtype, tolerance: float
) -> None:
    logits, inputs = drawn(top_k=None, dtype=dtype)
    loss = GeneralisedJSD(beta=0.0, temperature=temperature, entry_clip=clip)

    def naive(leaf: Tensor) -> Tensor:
        return naive_forward_kl(leaf, inputs, temperature, clip)

    values = check(wrap, loss, logits, inputs, naive, tolerance)
    removed = naive_forward_kl(logits, inputs, temperature, INF) - naive(logits)
    assert torch.allclose(values.diagnostics["clipped_mass"].double(), removed, rtol=1e-5, atol=1e-6)
    assert (values.diagnostics["clipped_mass"] > 0).any() == (clip < 100)
    assert torch.equal(values.diagnostics["clipped_mass"] > 0, values.diagnostics["clipped_share"] > 0)


@BOTH
@pytest.mark.parametrize(
    ("loss", "top_k"),
    [
        (TopKCrossEntropy(temperature=1.3), K),
        (GeneralisedJSD(beta=0.0, temperature=1.1, entry_clip=0.05), None),
    ],
)
def test_through_the_head(wrap, loss: TokenLoss, top_k: int | None) -> None:
    _, inputs = drawn(top_k=top_k)
    draw = torch.Generator().manual_seed(8)
    hidden = torch.randn(T, 8, generator=draw, dtype=torch.float64)
    weight = torch.randn(V, 8, generator=draw, dtype=torch.float64) / 2
    coefficients = torch.linspace(0, 1, T, dtype=torch.float64)
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    logits = leaves[0] @ leaves[1].T
    exact = naive_cross_entropy(logits, inputs, 1.3) if top_k else naive_forward_kl(logits, inputs, 1.1, 0.05)
    expected = torch.autograd.grad((exact * coefficients).sum(), leaves)
    result, *got = through_the_head(wrap(loss), hidden, weight, inputs, coefficients)
    assert relative_error(result.loss, (exact * coefficients).sum()) < 1e-12
    assert all(relative_error(one, other) < 1e-12 for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
@TEMPERATURES
def test_a_divergence_at_a_temperature_is_that_of_the_divided_logits(beta: float, temperature: float) -> None:
    logits, inputs = drawn(top_k=None)
    assert inputs.teacher_logprobs is not None
    divided = LossInputs(
        sampled_ids=inputs.sampled_ids,
        teacher_logprobs=(inputs.teacher_logprobs / temperature).log_softmax(-1),
    )
    expected, gradient = with_gradient(GeneralisedJSD(beta=beta), logits / temperature, divided)
    values, got = with_gradient(GeneralisedJSD(beta=beta, temperature=temperature), logits, inputs)
    assert torch.allclose(values.losses, expected.losses, rtol=1e-12)
    assert torch.allclose(got, gradient / temperature, rtol=1e-12, atol=1e-16)
    plain = GeneralisedJSD(beta=beta)(logits, inputs).diagnostics
    assert all(torch.allclose(seen, plain[name]) for name, seen in values.diagnostics.items())


# --- temperature 1, and limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_temperature_1_has_the_bits_of_the_plain_cross_entropy(dtype: torch.dtype) -> None:
    """The arithmetic of the paper's form in its order; 16 rows are processed at a time on a CPU."""
    logits, inputs = drawn(top_k=K, dtype=dtype)
    rows = slice(0, 16)
    logits, inputs = logits[rows], inputs.rows(rows)
    coefficients = torch.linspace(0.1, 1, 16, dtype=dtype)
    assert inputs.teacher_logprobs is not None and inputs.teacher_ids is not None
    probs = inputs.teacher_logprobs.to(dtype).exp()
    probs = probs / probs.sum(-1)[:, None]
    softmax = logits.softmax(-1)
    normaliser = logits.amax(-1) - softmax.amax(-1).log()
    losses = -(probs * (logits.gather(-1, inputs.teacher_ids) - normaliser[:, None])).sum(-1)
    expected = softmax * (probs.sum(-1) * coefficients)[:, None]
    expected.scatter_add_(-1, inputs.teacher_ids, (probs * coefficients[:, None]).neg())
    values, gradient = with_gradient(TopKCrossEntropy(temperature=1.0), logits, inputs, coefficients)
    assert torch.equal(values.losses, losses) and torch.equal(gradient, expected)
    by_graph = -(probs * (logits.gather(-1, inputs.teacher_ids) - logits.logsumexp(-1)[:, None])).sum(-1)
    assert torch.equal(TopKCrossEntropy()(logits, inputs).losses, by_graph)


@BOTH
def test_positions_without_teacher_entries_have_no_loss_at_any_temperature(wrap) -> None:
    logits, inputs = drawn(top_k=K)
    assert inputs.teacher_logprobs is not None
    inputs.teacher_logprobs[3] = -INF
    inputs.teacher_logprobs[5, 2:] = -INF
    values, gradient = with_gradient(wrap(TopKCrossEntropy(temperature=1.1)), logits, inputs)
    assert values.losses[3] == 0 and (gradient[3] == 0).all() and values.losses[5] > 0
    assert values.losses.isfinite().all() and gradient.isfinite().all()


@BOTH
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_teacher_that_excludes_tokens_or_all_of_them_gives_no_nan(wrap, clip: float | None) -> None:
    logits, inputs = drawn(top_k=None)
    assert inputs.teacher_logprobs is not None
    inputs.teacher_logprobs[3] = -INF
    inputs.teacher_logprobs[5, 2:] = -INF
    loss = wrap(GeneralisedJSD(beta=0.0, temperature=1.1, entry_clip=clip))
    values, gradient = with_gradient(loss, logits, inputs)
    assert values.losses[3] == 0 and (gradient[3] == 0).all()
    assert values.losses.isfinite().all() and gradient.isfinite().all()


@BOTH
def test_the_entry_clip_bounds_a_token_that_the_student_excludes(wrap) -> None:
    # Student (1/2, 1/2, 0), teacher (1/4, 1/4, 1/2): the terms are -1/4 log 2 twice and infinity
    logits = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    inputs = LossInputs(
        sampled_ids=torch.tensor([0]),
        teacher_logprobs=torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64).log(),
    )
    values, gradient = with_gradient(wrap(GeneralisedJSD(beta=0.0, entry_clip=0.05)), logits, inputs)
    assert values.losses.item() == pytest.approx(0.05 - LN2 / 2, abs=1e-14)
    assert gradient[0].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-14)
    assert values.diagnostics["clipped_share"].item() == 0.5
