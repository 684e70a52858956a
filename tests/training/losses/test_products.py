"""bfloat16 products that are computed in float32: values and gradients against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.utils._python_dispatch import _get_current_dispatch_mode

from training.losses.products import Float32Products, float32_products

PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mm": lambda x, y, _: x @ y.T,
    "linear": lambda x, y, z: linear(x[None], y, z[0, :5]),
    "bmm": lambda x, y, _: torch.einsum("nh,mh->nm", x, y),
    "batched": lambda x, y, _: x.view(2, 3, 8) @ y.expand(2, 5, 8).mT,
    "attention": lambda x, y, z: scaled_dot_product_attention(x[None, None], y[None, None], y[None, None]),
}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(6, 8), (5, 8), (6, 8)]
    x, y, z = (torch.randn(shape, generator=random).bfloat16().requires_grad_() for shape in shapes)
    return x, y, z


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("flash", [False, True])
def test_values_and_gradients_are_those_of_float64_rounded(name: str, flash: bool) -> None:
    before = torch.backends.cuda.flash_sdp_enabled()
    torch.backends.cuda.enable_flash_sdp(flash)
    try:
        given = inputs()
        with Float32Products():
            found = PRODUCTS[name](*given)
            found.square().sum().backward()
    finally:
        torch.backends.cuda.enable_flash_sdp(before)
    exact = [one.detach().double().requires_grad_() for one in given]
    expected = PRODUCTS[name](*exact)
    expected.square().sum().backward()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-7, atol=2**-7)
    for one, other in zip(given, exact, strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(one.grad.double(), other.grad, rtol=2**-5, atol=2**-4)


@pytest.mark.parametrize("name", PRODUCTS)
def test_values_are_the_same_in_inference_mode(name: str) -> None:
    given = inputs()
    with Float32Products():
        expected = PRODUCTS[name](*given)
        with torch.inference_mode():
            found = PRODUCTS[name](*given)
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)


def test_a_sum_of_many_terms_is_rounded_once() -> None:
    """2**8 + 1 + ... + 1 is 2**8 if every partial sum is rounded to bfloat16."""
    ones = torch.ones(1, 513, dtype=torch.bfloat16)
    first = ones.clone()
    first[0, 0] = 256
    with Float32Products():
        assert (first @ ones.T).item() == 768
        with torch.inference_mode():
            assert linear(first, ones).item() == (first @ ones.T).item() == 768
        out = torch.empty(1, 1, dtype=torch.bfloat16)
        assert torch.mm(first, ones.T, out=out) is out and out.item() == 768
        total = torch.full((1, 1), 2.0, dtype=torch.bfloat16)
        total.addmm_(first, ones.T)
        assert total.item() == torch.tensor(770.0).bfloat16().item()


def test_other_tensors_are_left_alone() -> None:
    x, y, _ = inputs()
    with Float32Products():
        assert torch.equal(x.double() @ y.double().T, x.detach().double() @ y.detach().double().T)
        assert (x + 1).dtype == torch.bfloat16


@pytest.mark.parametrize(("gpu", "fast"), [(True, True), (True, False), (False, True), (False, False)])
def test_only_a_slow_cpu_without_a_gpu_needs_them(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, fast: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: fast)
    if fast:
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    with float32_products():
        assert isinstance(_get_current_dispatch_mode(), Float32Products) == (not gpu and not fast)
    assert _get_current_dispatch_mode() is None
