"""Teacher states represent the full distribution: the same losses and gradients as with the distribution itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.training.losses.naive import naive_head, relative_error
from training.losses.base import AnalyticTokenLoss, LossInputs, LossOutputs, TokenLoss
from training.losses.combined import Combined
from training.losses.divergences import GeneralisedJSD
from training.losses.head import chunked_head
from training.losses.sampled_losses import FromSampled, ReferenceKL
from training.losses.teacher_states import from_states
from training.losses.token_losses import TopKCrossEntropy

T, H, WIDE, V = 23, 12, 20, 40  # the teacher is wider than the student


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor, LossInputs, Tensor]:
    """Float64 hidden states and heads of student and teacher, loss inputs and coefficients."""
    draw = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    inputs = LossInputs(
        sampled_ids=torch.randint(V, (T,), generator=draw), reference_logprobs=-normal(T).abs()
    )
    return normal(T, H), normal(V, H), normal(T, WIDE), normal(V, WIDE), inputs, normal(T).abs()


def both(loss: TokenLoss) -> tuple[list[Tensor], list[Tensor]]:
    """Return (loss, gradients, token losses) from the states and from the distribution."""
    hidden, weight, states, head, inputs, coefficients = drawn()
    with_distribution = replace(inputs, teacher_logprobs=(states @ head.T).log_softmax(-1))
    found = []
    for token_loss, known in (
        (from_states(loss, head), replace(inputs, teacher_states=states)),
        (loss, with_distribution),
    ):
        leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
        result = chunked_head(leaves[0], leaves[1], token_loss, known, coefficients, chunk_size=7)
        result.loss.backward()
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        found.append([result.loss.detach(), *gradients, result.token_losses])
    return found[0], found[1]


class Graph:
    """The cross-entropy without its analytic gradient, so that autograd is used."""

    def __call__(self, logits: Tensor, inputs: LossInputs) -> LossOutputs:
        return TopKCrossEntropy()(logits, inputs)


PENALTY = (0.3, FromSampled(loss=ReferenceKL()))
PENALISED = Combined(terms=((1.0, TopKCrossEntropy()), PENALTY))
PENALISED_GRAPH = Combined(
    terms=((0.5, Graph()), PENALTY, (2.0, GeneralisedJSD(beta=0.0, temperature=1.1, entry_clip=0.05)))
)


@pytest.mark.parametrize(
    "loss",
    [
        TopKCrossEntropy(), GeneralisedJSD(beta=0.0), GeneralisedJSD(beta=0.5), GeneralisedJSD(beta=1.0), Graph(), PENALISED,
        PENALISED_GRAPH,
    ],
)  # fmt: skip
def test_states_and_distribution_give_the_same_loss_and_gradients(loss: TokenLoss) -> None:
    by_states, by_distribution = both(loss)
    assert len(by_states) == 4
    for one, other in zip(by_states, by_distribution, strict=True):
        assert relative_error(one, other) < 1e-12


def test_it_equals_the_naive_cross_entropy_of_the_teachers_softmax() -> None:
    hidden, weight, states, head, inputs, coefficients = drawn()
    with_distribution = replace(inputs, teacher_logprobs=torch.log(torch.softmax(states @ head.T, -1)))
    expected = naive_head(hidden, weight, with_distribution, coefficients, "unnormalised")
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    result = chunked_head(
        leaves[0], leaves[1], from_states(TopKCrossEntropy(), head), replace(inputs, teacher_states=states),
        coefficients,
    )  # fmt: skip
    result.loss.backward()
    for got, one in zip((result.loss, leaves[0].grad, leaves[1].grad), expected, strict=True):
        assert got is not None and relative_error(got.detach(), one) < 1e-6


def test_a_loss_with_an_analytic_gradient_keeps_it() -> None:
    head = drawn()[3]
    assert isinstance(from_states(TopKCrossEntropy(), head), AnalyticTokenLoss)
    assert not isinstance(from_states(Graph(), head), AnalyticTokenLoss)


def test_positions_without_states_are_rejected() -> None:
    _, _, _, head, inputs, _ = drawn()
    with pytest.raises(ValueError, match="needs teacher_states"):
        from_states(TopKCrossEntropy(), head)(torch.zeros(T, V), inputs)
