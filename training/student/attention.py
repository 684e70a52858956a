"""Attention of the student over the sequences of a batch: which implementation, and the one of variable length.

`varlen` is `torch.nn.attention.varlen.varlen_attn` (FlashAttention), for GPUs: all sequences stand in one row without padding,
and their lengths replace the attention mask. `sdpa` is torch's scaled_dot_product_attention with a dense mask for packed rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

AttentionKind = Literal["varlen", "sdpa"]
VARLEN = "sure_math_varlen"
"""The name of `varlen_attention` in transformers' registry."""
MIN_CAPABILITY = (8, 0)
"""The oldest compute capability with FlashAttention kernels (A100)."""
MAX_HEAD = 256
"""The largest head dimension of these kernels; it must be a multiple of 8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionChoice:
    """An implementation of attention and the reason for choosing it, for the log."""

    kind: AttentionKind
    reason: str


def choose_attention(
    *, capability: tuple[int, int] | None, dtype: str, head_dim: int, dropout: float = 0.0
) -> AttentionChoice:
    """Return `varlen` wherever its kernels can run, else `sdpa`. `capability`: compute capability of the GPU, None without one.

    `dropout` is the model's attention dropout, which `varlen_attn` does not have.
    """
    refusal = None
    if capability is None:
        refusal = "no GPU"
    elif capability < MIN_CAPABILITY:
        refusal = f"the GPU's compute capability is {capability[0]}.{capability[1]}, below 8.0"
    elif dtype != "bfloat16":
        refusal = f"FlashAttention does not support {dtype}"
    elif head_dim > MAX_HEAD or head_dim % 8:
        refusal = f"FlashAttention does not support heads of {head_dim}"
    elif dropout:
        refusal = f"attention dropout is {dropout:g}"
    if refusal is not None:
        return AttentionChoice(kind="sdpa", reason=f"{refusal}: dense mask for packed rows")
    return AttentionChoice(kind="varlen", reason="bfloat16 on a GPU: no padding, no mask")


def implementation(choice: AttentionChoice) -> str:
    """Return the `attn_implementation` of transformers for a choice, registered if it is ours.

    transformers builds no mask for it, because it has no mask function of this name.
    """
    if choice.kind == "sdpa":
        return "sdpa"
    from transformers import AttentionInterface

    AttentionInterface.register(VARLEN, varlen_attention)
    return VARLEN


def varlen_attention(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention [1, L, heads, D] of the sequences in one row, with the interface of transformers.

    `query` is [1, heads, L, D]; `key` and `value` may have fewer heads. `cu_seq_lens_q` [S + 1] (int32) holds the start of each
    sequence and the end of the last, `max_length_q` the longest length. With a `sliding_window` of W a token attends to W tokens,
    itself included; the left window of `varlen_attn` does not include it.
    """
    from torch.nn.attention.varlen import varlen_attn

    output: Any = varlen_attn(  # a tensor, unless the log-sum-exp is requested too
        *(states.squeeze(0).transpose(0, 1) for states in (query, key, value)),
        cu_seq_q=cu_seq_lens_q,
        cu_seq_k=cu_seq_lens_q,
        max_q=max_length_q,
        max_k=max_length_q,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=True,
    )
    return output.unsqueeze(0), None
