"""Attention over the sequences of a batch: which implementation, and the two without padding.

`varlen` is `torch.nn.attention.varlen.varlen_attn` (FlashAttention), for GPUs: all sequences stand in one row without padding,
and their lengths replace the attention mask. `per_sequence` has the same row, and calls torch's scaled_dot_product_attention once
for each sequence: on a CPU a call costs little, and padding or a mask much. `sdpa` is scaled_dot_product_attention with a dense
mask for packed rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from training.data.batches import Batch, TokenSequence

AttentionKind = Literal["varlen", "per_sequence", "sdpa"]
VARLEN = "sure_math_varlen"
"""The name of `varlen_attention` in transformers' registry."""
PER_SEQUENCE = "sure_math_per_sequence"
"""The name of `per_sequence_attention` there."""
MIN_CAPABILITY = (8, 0)
"""The oldest compute capability with FlashAttention kernels (A100)."""
MAX_HEAD = 256
"""The largest head dimension of these kernels; it must be a multiple of 8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionChoice:
    """An implementation of attention and the reason for choosing it, for the log."""

    kind: AttentionKind
    reason: str

    @property
    def joins(self) -> bool:
        """Whether all sequences of a batch stand in one row, separated by their bounds instead of a mask."""
        return self.kind != "sdpa"

    def rows(
        self,
        sequences: Sequence[TokenSequence],
        device: torch.device,
        *,
        pack: bool,
        budget: int | None = None,
    ) -> Batch:
        """Return the sequences in the rows that this attention needs; see `make_batch` for `pack` and `budget`."""
        from training.data.batches import join_sequences, make_batch

        if self.joins:
            return join_sequences(sequences, device)
        return make_batch(sequences, device, pack=pack, budget=budget)


ON_CPU = AttentionChoice(kind="per_sequence", reason="no GPU: sequence by sequence, no padding, no mask")


def choose_attention(
    *, capability: tuple[int, int] | None, dtype: str, head_dim: int, dropout: float = 0.0
) -> AttentionChoice:
    """Return `varlen` wherever its kernels can run, `per_sequence` without a GPU, else `sdpa`. `capability`: compute capability
    of the GPU, None without one.

    `dropout` is the model's attention dropout, which `varlen_attn` does not have.
    """
    if capability is None:
        return ON_CPU
    refusal = None
    if capability < MIN_CAPABILITY:
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

    name, function = (
        (VARLEN, varlen_attention) if choice.kind == "varlen" else (PER_SEQUENCE, per_sequence_attention)
    )
    AttentionInterface.register(name, function)
    return name


def separation(batch: Batch) -> dict[str, Any]:
    """Return what, besides the mask, separates the sequences of a batch: arguments of a base model of transformers."""
    if batch.bounds is not None:
        bounds = {"cu_seq_lens_q": batch.bounds.starts, "max_length_q": batch.bounds.longest}
        return {"position_ids": batch.positions, **bounds}
    return {} if batch.mask is None else {"position_ids": batch.positions}


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


def per_sequence_attention(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return what `varlen_attention` returns for the same arguments. The result for a sequence does not depend on the others."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    lengths = cu_seq_lens_q.diff().tolist()
    parts = []
    for states in zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True):
        mask = _window_mask(states[0].shape[2], sliding_window, query.device)
        parts.append(
            scaled_dot_product_attention(
                *states,
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                dropout_p=dropout,
                enable_gqa=True,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _window_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Return the mask [L, L] (True: may attend) of a sliding window that is shorter than the sequence, None if it is not."""
    import torch

    if window is None or window >= length:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - window)
