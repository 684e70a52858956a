"""Matrix products in bfloat16 on CPUs without instructions for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_ATEN = torch.ops.aten
_ATTENTION = _ATEN._scaled_dot_product_flash_attention_for_cpu.default
_ATTENTION_BACKWARD = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward.default
_PRODUCTS = {
    _ATEN.mm.default, _ATEN.addmm.default, _ATEN.addmm_.default, _ATEN.bmm.default, _ATEN.baddbmm.default,
    _ATEN.mm.out, _ATEN.addmm.out, _ATEN.bmm.out, _ATTENTION, _ATTENTION_BACKWARD,
    # in inference mode these arrive whole:
    _ATEN.linear.default, _ATEN.matmul.default, _ATEN.einsum.default, _ATEN.scaled_dot_product_attention.default,
}  # fmt: skip


@contextmanager
def float32_products() -> Iterator[None]:
    """Inside the block, the calling thread computes bfloat16 products in float32 and rounds the results, if there is no GPU and
    the CPU lacks AVX-512 or AVX-NE-CONVERT. There PyTorch computes them element by element: on an AMD EPYC of the third
    generation at 1 GFLOPS, in float32 at 60. Does nothing elsewhere."""
    if has_bfloat16_products():
        yield
    else:
        with Float32Products():
            yield


def has_bfloat16_products() -> bool:
    """Return whether PyTorch has fast bfloat16 products for this machine: on its GPU, or by instructions of its CPU."""
    if torch.cuda.is_available():
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Float32Products(TorchDispatchMode):
    """Computes bfloat16 products in float32, backward passes included."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func not in _PRODUCTS or not any(map(_is_narrow, tree_leaves((args, named)))):
            return func(*args, **named)
        wide_args, wide_named = tree_map(_widened, (args, named))
        into = named.get("out", args[0] if func is _ATEN.addmm_.default else None)
        found = func(*wide_args, **wide_named)
        if into is not None:
            return into.copy_(found)
        if func is _ATTENTION:  # and the logarithms of its sums, which are float32
            return (found[0].bfloat16(), *found[1:])
        return tree_map(_narrowed, found)


def _is_narrow(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 and value.device.type == "cpu"


def _widened(value: Any) -> Any:
    return value.float() if _is_narrow(value) else value


def _narrowed(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, torch.Tensor) else value
