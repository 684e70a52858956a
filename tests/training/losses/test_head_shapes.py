"""The chunked head against full float64 logits for any shape. A separate file, because GPU machines may lack hypothesis."""

from __future__ import annotations

from typing import get_args

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.losses.naive import naive_head, teacher_top_k
from training.losses.base import LossInputs
from training.losses.head import chunked_head
from training.losses.token_losses import TopKCrossEntropy, TopKForm

FORMS: tuple[TopKForm, ...] = get_args(TopKForm)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 30),
    hidden=st.integers(1, 12),
    vocabulary=st.integers(2, 40),
    chunk_size=st.integers(1, 35),
    data=st.data(),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 2**31),
)
def test_any_shape_equals_full_logits(
    count: int, hidden: int, vocabulary: int, chunk_size: int, data: st.DataObject, form: TopKForm, seed: int
) -> None:
    k = data.draw(st.integers(1, vocabulary))
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(count, hidden, generator=draw, dtype=torch.float64)
    weight = torch.randn(vocabulary, hidden, generator=draw, dtype=torch.float64)
    logprobs, ids = teacher_top_k(2 * torch.randn(count, vocabulary, generator=draw), k)
    inputs = LossInputs(
        sampled_ids=torch.randint(vocabulary, (count,), generator=draw),
        teacher_logprobs=logprobs,
        teacher_ids=ids,
    )
    coefficients = torch.rand(count, generator=draw) * (torch.rand(count, generator=draw) < 0.7)
    leaves = (states.clone().requires_grad_(), weight.clone().requires_grad_())
    result = chunked_head(*leaves, TopKCrossEntropy(form=form), inputs, coefficients, chunk_size=chunk_size)
    result.loss.backward()
    loss, *expected = naive_head(states, weight, inputs, coefficients, form)
    assert torch.allclose(result.loss, loss, rtol=1e-10, atol=1e-12)
    for leaf, gradient in zip(leaves, expected, strict=True):
        assert leaf.grad is not None and torch.allclose(leaf.grad, gradient, rtol=1e-8, atol=1e-10)
