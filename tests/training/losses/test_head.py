"""The chunked head: equal to full float64 logits for any split of the batch, and unaffected by prompts of weight 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.training.losses.naive import naive_head, naive_losses, relative_error, teacher_top_k
from training.losses.base import LossInputs, LossOutputs
from training.losses.head import HeadResult, chunked_head, self_divergence
from training.losses.reductions import Totals, expand, per_sequence_mean
from training.losses.token_losses import TopKCrossEntropy, TopKForm

FORMS: tuple[TopKForm, ...] = get_args(TopKForm)
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Return every device of this machine on which a student can be trained."""
    return request.param


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Responses of several sequences, an LM head, and the teacher's top k at every position."""

    hidden: Tensor
    weight: Tensor
    lengths: Tensor
    weights: Tensor
    inputs: LossInputs

    @property
    def totals(self) -> Totals:
        return Totals(sequences=len(self.lengths), tokens=len(self.hidden))

    @property
    def coefficients(self) -> Tensor:
        return self.coefficients_of(self.totals)

    def coefficients_of(self, totals: Totals) -> Tensor:
        """Coefficients of the per-sequence mean with these counts of the whole update."""
        lengths = self.lengths.cpu().numpy()
        per_sequence = per_sequence_mean(self.weights.cpu().numpy(), lengths, totals)
        return torch.from_numpy(expand(per_sequence, lengths)).to(self.weights.device)


def draw_batch(
    device: str = "cpu",
    *,
    seed: int = 0,
    hidden: int = 24,
    vocabulary: int = 97,
    k: int = 8,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([13, 1, 40, 7, 22, 5, 9, 30])
    count = int(lengths.sum())
    logprobs, ids = teacher_top_k(3 * torch.randn(count, vocabulary, generator=draw), k)
    return Batch(
        hidden=torch.randn(count, hidden, generator=draw).to(device, dtype),
        weight=(torch.randn(vocabulary, hidden, generator=draw) / 3).to(device, dtype),
        lengths=lengths.to(device),
        weights=torch.tensor([0.9, 0.5, 0.0, 1.0, 0.25, 0.0, 0.7, 0.33], device=device),
        inputs=LossInputs(
            sampled_ids=torch.randint(vocabulary, (count,), generator=draw),
            teacher_logprobs=logprobs,
            teacher_ids=ids,
        ).to(device),
    )


def gradients(batch: Batch, token_loss: Any = None, **options: Any) -> tuple[HeadResult, Tensor, Tensor]:
    """Return the head's result and its gradients with respect to hidden and weight."""
    hidden, weight = (tensor.clone().requires_grad_() for tensor in (batch.hidden, batch.weight))
    if "coefficients" not in options:
        options["coefficients"] = batch.coefficients
    result = chunked_head(hidden, weight, token_loss or TopKCrossEntropy(), batch.inputs, **options)
    result.loss.backward()
    assert hidden.grad is not None and weight.grad is not None
    return result, hidden.grad, weight.grad


@dataclass(frozen=True, slots=True)
class ByGraph:
    """The same loss without its analytic gradient, so that the head uses autograd."""

    loss: TopKCrossEntropy

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        return self.loss(logits, inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("chunk_size", [1, 20, 1000])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrap", [lambda loss: loss, ByGraph])
def test_it_equals_full_float64_logits(
    device: str, wrap, form: TopKForm, chunk_size: int, dtype, tolerance: float
) -> None:
    batch = draw_batch(device, dtype=dtype)
    result, hidden, weight = gradients(batch, wrap(TopKCrossEntropy(form=form)), chunk_size=chunk_size)
    loss, naive_hidden, naive_weight = naive_head(
        batch.hidden, batch.weight, batch.inputs, batch.coefficients, form
    )
    assert relative_error(result.loss, loss) < tolerance
    assert relative_error(hidden, naive_hidden) < tolerance
    assert relative_error(weight, naive_weight) < tolerance
    assert (hidden.dtype, weight.dtype) == (dtype, dtype)


@pytest.mark.parametrize("form", FORMS)
def test_bf16_is_within_five_thousandths(device: str, form: TopKForm) -> None:
    batch = draw_batch(device, dtype=torch.bfloat16, hidden=64, vocabulary=400, k=32)
    batch = replace(batch, weight=batch.weight / 3)  # logits of standard deviation 1
    result, hidden, weight = gradients(batch, TopKCrossEntropy(form=form), chunk_size=9)
    loss, naive_hidden, naive_weight = naive_head(
        batch.hidden, batch.weight, batch.inputs, batch.coefficients, form
    )
    assert (result.loss.dtype, hidden.dtype, weight.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    assert relative_error(result.loss, loss) < 5e-3
    assert relative_error(hidden, naive_hidden) < 5e-3
    assert relative_error(weight, naive_weight) < 5e-3


@pytest.mark.parametrize("scale", [1 / 3, 1.0, 3.0])
def test_bf16_chunks_are_about_as_accurate_as_full_bf16_logits(device: str, scale: float) -> None:
    """Large logits have large rounding errors in bf16 either way; each chunk's part of the head's gradient is rounded, too."""
    batch = draw_batch(device, dtype=torch.bfloat16, hidden=64, vocabulary=400, k=32)
    batch = replace(batch, weight=batch.weight * scale)
    _, hidden, weight = gradients(batch, chunk_size=50)
    _, *exact = naive_head(
        batch.hidden, batch.weight, batch.inputs, batch.coefficients, "teacher_renormalised"
    )
    leaves = [tensor.clone().requires_grad_() for tensor in (batch.hidden, batch.weight)]
    logits = (leaves[0] @ leaves[1].T).float()
    (TopKCrossEntropy()(logits, batch.inputs).losses * batch.coefficients).sum().backward()
    for got, leaf, expected in zip((hidden, weight), leaves, exact, strict=True):
        assert leaf.grad is not None
        assert relative_error(got, expected) < 1.5 * relative_error(leaf.grad, expected)


def test_the_full_vocabulary_needs_no_ids(device: str) -> None:
    batch = draw_batch(device, k=97, dtype=torch.float64)
    assert batch.inputs.teacher_ids is not None and batch.inputs.teacher_logprobs is not None
    dense = torch.empty_like(batch.inputs.teacher_logprobs).scatter_(
        1, batch.inputs.teacher_ids, batch.inputs.teacher_logprobs
    )
    full = replace(batch, inputs=replace(batch.inputs, teacher_ids=None, teacher_logprobs=dense))
    (first, *first_gradients), (second, *second_gradients) = gradients(batch), gradients(full)
    assert relative_error(second.loss, first.loss) < 1e-12
    for got, expected in zip(second_gradients, first_gradients, strict=True):
        assert relative_error(got, expected) < 1e-12


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_splitting_the_batch_does_not_change_the_result(
    device: str, parts: int, dtype, tolerance: float
) -> None:
    """Micro-batches of unequal token counts, summed like ranks or accumulation steps."""
    batch = draw_batch(device, dtype=dtype, hidden=48, vocabulary=300, k=16)
    whole, hidden, weight = gradients(batch)
    bounds = [0, *batch.lengths.cumsum(0).tolist()]
    step = len(batch.lengths) // parts
    losses, hiddens, weights = [], [], []
    for first in range(0, len(batch.lengths), step):
        tokens, sequences = slice(bounds[first], bounds[first + step]), slice(first, first + step)
        part = replace(
            batch,
            hidden=batch.hidden[tokens],
            lengths=batch.lengths[sequences],
            weights=batch.weights[sequences],
            inputs=batch.inputs.rows(tokens),
        )
        result, grad_hidden, grad_weight = gradients(part, coefficients=part.coefficients_of(batch.totals))
        losses.append(result.loss.detach())
        hiddens.append(grad_hidden)
        weights.append(grad_weight.float())
    assert relative_error(torch.stack(losses).sum(), whole.loss) < 1e-6
    assert relative_error(torch.cat(hiddens), hidden) < tolerance
    assert relative_error(torch.stack(weights).sum(0), weight) < tolerance


def test_prompts_of_weight_zero_contribute_exactly_nothing(device: str) -> None:
    """Not even if their states are NaN; the result is bitwise equal to that without them."""
    batch = draw_batch(device)
    zero = batch.coefficients == 0
    assert zero.sum() == 45  # the sequences of 40 and 5 tokens
    poisoned = replace(batch, hidden=batch.hidden.masked_fill(zero[:, None], torch.nan))
    result, hidden, weight = gradients(poisoned, chunk_size=16)
    kept = (~zero).nonzero().flatten()
    without = replace(batch, hidden=batch.hidden[kept], inputs=batch.inputs.rows(kept))
    expected, expected_hidden, expected_weight = gradients(
        without, coefficients=batch.coefficients[kept], chunk_size=16
    )
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(weight, expected_weight)
    assert torch.equal(hidden[kept], expected_hidden)
    assert (hidden[zero] == 0).all()
    assert torch.equal(result.token_losses.isnan(), zero)
    assert torch.equal(result.diagnostics["sampled_logprob"].isnan(), zero)


class CountRows:
    """Counts the rows of logits that a loss receives."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        self.rows += len(logits)
        return TopKCrossEntropy()(logits, inputs)


def test_prompts_of_weight_zero_are_not_computed() -> None:
    batch, counter = draw_batch(), CountRows()
    gradients(batch, counter)
    assert counter.rows == len(batch.hidden) - 45


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrap", [lambda loss: loss, ByGraph])
def test_a_batch_of_zero_weights_gives_a_differentiable_zero(device: str, wrap, dtype) -> None:
    batch = replace(draw_batch(device, dtype=dtype), weights=torch.zeros(8, device=device))
    body = torch.nn.Linear(24, 24).to(device, dtype)
    head = torch.nn.Parameter(batch.weight.clone())
    result = chunked_head(
        body(batch.hidden), head, wrap(TopKCrossEntropy()), batch.inputs, batch.coefficients
    )
    assert result.loss.requires_grad and result.loss.item() == 0.0
    result.loss.backward()
    for parameter in (head, *body.parameters()):
        assert parameter.grad is not None and (parameter.grad == 0).all()
    assert set(result.diagnostics) == {"teacher_mass", "student_mass", "entropy", "sampled_logprob"}
    assert all(values.isnan().all() and len(values) == 127 for values in result.diagnostics.values())


def test_the_gradient_matches_finite_differences(device: str) -> None:
    batch = draw_batch(device, hidden=3, vocabulary=11, k=4, dtype=torch.float64)
    small = replace(batch, hidden=batch.hidden[:6], inputs=batch.inputs.rows(slice(0, 6)))
    coefficients = torch.tensor([0.3, 0.0, -1.0, 0.5, 2.0, 1.0], dtype=torch.float64, device=device)
    hidden, weight = (tensor.clone().requires_grad_() for tensor in (small.hidden, small.weight))
    for form in FORMS:
        loss = TopKCrossEntropy(form=form)
        assert torch.autograd.gradcheck(
            lambda *inputs, loss=loss: _Repeatable.apply(
                *inputs,
                lambda h, w: chunked_head(h, w, loss, small.inputs, coefficients, chunk_size=4).loss,
            ),
            (hidden, weight),
        )


class _Repeatable(torch.autograd.Function):
    """Keeps copies of the head's gradients, since gradcheck runs backward twice and the head allows it only once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, head: Any) -> Tensor:
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in (hidden, weight)]
            loss = head(*leaves)
            ctx.save_for_backward(*torch.autograd.grad(loss, leaves))
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight = ctx.saved_tensors
        return hidden * upstream[0], weight * upstream[0], None


def test_the_upstream_gradient_scales_and_a_second_backward_raises(device: str) -> None:
    batch = draw_batch(device)
    _, hidden, weight = gradients(batch)
    leaves = (batch.hidden.clone().requires_grad_(), batch.weight.clone().requires_grad_())
    result = chunked_head(*leaves, TopKCrossEntropy(), batch.inputs, batch.coefficients)
    scaled = result.loss * 4.0
    scaled.backward(retain_graph=True)
    assert leaves[0].grad is not None and torch.equal(leaves[0].grad, hidden * 4.0)
    assert leaves[1].grad is not None and torch.equal(leaves[1].grad, weight * 4.0)
    with pytest.raises(RuntimeError, match="can run only once: call chunked_head again"):
        scaled.backward()


def test_a_tied_embedding_gets_both_gradients(device: str) -> None:
    batch = draw_batch(device, dtype=torch.float64)
    tokens = batch.inputs.sampled_ids.roll(1)

    def embedded(table: Tensor) -> Tensor:
        return torch.tanh(table[tokens])

    ours, naive = (batch.weight.clone().requires_grad_() for _ in range(2))
    chunked_head(embedded(ours), ours, TopKCrossEntropy(), batch.inputs, batch.coefficients).loss.backward()
    losses = naive_losses(embedded(naive) @ naive.T, batch.inputs, "teacher_renormalised")
    (losses * batch.coefficients).sum().backward()
    assert ours.grad is not None and naive.grad is not None
    assert relative_error(ours.grad, naive.grad) < 1e-12


def test_only_trained_tensors_get_a_gradient(device: str) -> None:
    batch = draw_batch(device)
    _, hidden, _ = gradients(batch)
    states = batch.hidden.clone().requires_grad_()
    chunked_head(states, batch.weight, TopKCrossEntropy(), batch.inputs, batch.coefficients).loss.backward()
    assert states.grad is not None and torch.equal(states.grad, hidden)
    with torch.no_grad():
        plain = chunked_head(states, batch.weight, TopKCrossEntropy(), batch.inputs, batch.coefficients)
    assert not plain.loss.requires_grad
    assert relative_error(plain.loss, gradients(batch)[0].loss) < 1e-6


def test_the_padding_of_the_vocabulary_has_no_effect(device: str) -> None:
    batch = draw_batch(device, dtype=torch.float64)
    padded = replace(batch, weight=torch.cat([batch.weight, torch.full_like(batch.weight[:31], 9.0)]))
    result, hidden, weight = gradients(padded, vocabulary=97)
    expected, expected_hidden, expected_weight = gradients(batch)
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(hidden, expected_hidden)
    assert torch.equal(weight[:97], expected_weight)
    assert weight.shape == (128, 24) and (weight[97:] == 0).all()


def test_diagnostics_and_losses_equal_those_of_full_logits(device: str) -> None:
    batch = replace(draw_batch(device, dtype=torch.float64), weights=torch.ones(8, device=device))
    result, _, _ = gradients(batch, chunk_size=17)
    logprobs = torch.log_softmax(batch.hidden @ batch.weight.T, -1)
    ids = batch.inputs.teacher_ids
    assert ids is not None and batch.inputs.teacher_logprobs is not None
    expected = {
        "teacher_mass": batch.inputs.teacher_logprobs.double().exp().sum(-1),
        "student_mass": logprobs.exp().gather(1, ids).sum(-1),
        "entropy": torch.distributions.Categorical(logits=logprobs).entropy(),
        "sampled_logprob": logprobs[torch.arange(127), batch.inputs.sampled_ids],
    }
    assert result.diagnostics.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.allclose(result.diagnostics[name], values, rtol=1e-10, atol=1e-12), name
        assert not result.diagnostics[name].requires_grad
    losses = naive_losses(batch.hidden @ batch.weight.T, batch.inputs, "teacher_renormalised")
    assert torch.allclose(result.token_losses, losses, rtol=1e-10)


def test_over_the_full_vocabulary_it_equals_trls_forward_kl_plus_the_teachers_entropy() -> None:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    batch = draw_batch()
    draw = torch.Generator().manual_seed(1)
    teacher_hidden, teacher_head = (
        torch.randn(127, 24, generator=draw),
        torch.randn(97, 24, generator=draw) / 3,
    )
    logprobs = torch.log_softmax(teacher_hidden @ teacher_head.T, -1)
    inputs = replace(batch.inputs, teacher_logprobs=logprobs, teacher_ids=None)
    full = replace(batch, inputs=inputs, weights=torch.ones(8))
    result, hidden, weight = gradients(full)
    leaves = (batch.hidden.clone().requires_grad_(), batch.weight.clone().requires_grad_())
    divergence, _ = ChunkedDivergenceFunction.apply(*leaves, None, teacher_hidden, teacher_head, None, 0.0)
    (divergence * full.coefficients).sum().backward()
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    assert torch.allclose(result.token_losses - entropy, divergence.detach(), atol=2e-6)
    for got, leaf in zip((hidden, weight), leaves, strict=True):
        assert leaf.grad is not None
        assert relative_error(got, leaf.grad) < 1e-6


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-3)])
def test_the_self_divergence_is_zero(device: str, dtype: torch.dtype, most: float) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, 16, generator=draw).to(device, dtype) for size in (23, 70))
    for chunk_size in (5, 100):
        found = self_divergence(hidden, weight, vocabulary=64, chunk_size=chunk_size)
        assert found.shape == (23,) and found.abs().max() < most


def test_a_wrong_head_gives_a_self_divergence_above_zero(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = TopKCrossEntropy.gradient_

    def wrong(self: TopKCrossEntropy, logits: Tensor, *rest: Any) -> Any:
        return right(self, logits.mul_(2.0), *rest)

    monkeypatch.setattr(TopKCrossEntropy, "gradient_", wrong)
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, 16, generator=draw).to(device) for size in (4, 64))
    assert self_divergence(hidden, weight, vocabulary=64, chunk_size=2).max() > 0.01


def test_autocast_has_no_effect_inside_the_head(device: str) -> None:
    batch = draw_batch(device)
    _, hidden, weight = gradients(batch)
    with torch.autocast(device, dtype=torch.bfloat16):
        _, other_hidden, other_weight = gradients(batch)
    assert torch.equal(hidden, other_hidden) and torch.equal(weight, other_weight)


def test_inconsistent_inputs_are_rejected() -> None:
    batch, loss = draw_batch(), TopKCrossEntropy()

    def call(**changes: Any) -> None:
        options = {
            "hidden": batch.hidden,
            "weight": batch.weight,
            "inputs": batch.inputs,
            "coefficients": batch.coefficients,
            "token_loss": loss,
        }
        chunked_head(**{**options, **changes})

    call()
    bad = batch.coefficients.clone()
    bad[4] = torch.nan
    for changes, message in [
        ({"hidden": batch.hidden[:, :5]}, "must be \\[T, H\\] and \\[V, H\\]"),
        ({"hidden": batch.hidden.bfloat16()}, "hidden is torch.bfloat16, the head torch.float32"),
        ({"hidden": batch.hidden.half(), "weight": batch.weight.half()}, "both must be bf16, fp32 or fp64"),
        ({"coefficients": bad[:9]}, "127 states, 127 positions and coefficients \\(9,\\)"),
        ({"coefficients": bad}, "position 4 has coefficient nan"),
        ({"chunk_size": 0}, "chunk size 0"),
        ({"vocabulary": 98}, "vocabulary 98 must be from 1 to 97"),
        ({"vocabulary": 2}, "outside the vocabulary of 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(**changes)
