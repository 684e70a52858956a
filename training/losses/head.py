"""The LM head and a token loss in chunks of positions, so that the logits [T, V] of a batch never exist at once.

The coefficients of the loss are known in advance. One pass over the chunks therefore computes the loss and both gradients, with
three matrix products and no recomputation, and backward only scales the gradients. Shapes: T positions, H hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.losses.base import AnalyticTokenLoss, LossInputs, LossOutputs, TokenLoss, rows_at_a_time
from training.losses.token_losses import TopKCrossEntropy

CHUNK_SIZE = 512  # positions: 297 MiB of fp32 logits at V = 151,936
_WEIGHT_ROWS = {"cpu": 2048, "cuda": 32_768}
"""Number of rows of the head's gradient to accumulate at once in a wider dtype: they fit in the CPU cache, and GPUs need few
kernel launches."""
_DTYPES = (torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadResult:
    """`loss`: the differentiable scalar sum_t c_t l_t. The other values are detached, [T], and NaN at skipped positions."""

    loss: Tensor
    token_losses: Tensor
    diagnostics: dict[str, Tensor]


def chunked_head(
    hidden: Tensor,
    weight: Tensor,
    token_loss: TokenLoss,
    inputs: LossInputs,
    coefficients: Tensor,
    *,
    vocabulary: int | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> HeadResult:
    """Return sum_t c_t l_t, where l_t is the token loss of the logits `hidden[t] @ weight.T` and c = `coefficients` [T].

    `hidden` [T, H]: the hidden states that predict the T positions. `weight` [V, H]: the LM head, tied to the embedding or not.
    Both are bf16, fp32 or fp64, and all tensors are on one device. `vocabulary`: number of leading rows of the head to use (the
    shared size of two padded vocabularies). Logits have the model's dtype; softmax, losses and logit gradients are computed in
    fp32 (fp64 for fp64), as is the sum of the head's gradient over chunks. Positions with coefficient 0 are skipped: they cost
    nothing and cannot propagate NaN; if all are skipped, the loss and its gradients are 0. Backward may run only once, since the
    gradients are not copied. Raises `ValueError` for inconsistent shapes, dtypes, ids or coefficients.
    """
    used = weight.shape[0] if vocabulary is None else vocabulary
    _check(hidden, weight, inputs, coefficients, used, chunk_size)
    work = _Work(
        token_loss=token_loss,
        inputs=inputs,
        coefficients=coefficients.detach(),
        vocabulary=used,
        chunk_size=chunk_size,
        with_gradient=torch.is_grad_enabled(),
    )
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _ChunkedHead.apply(hidden, weight, work)  # pyright: ignore[reportAssignmentType]
    return HeadResult(loss=loss, token_losses=work.results.pop("loss"), diagnostics=work.results)


def self_divergence(hidden: Tensor, weight: Tensor, *, vocabulary: int, chunk_size: int) -> Tensor:
    """Return the KL divergence [T] in nats of a student from itself over the whole vocabulary, computed like the loss of an
    update: 0 up to rounding, unless the device computes the head or the softmax wrong. Allocates several [T, V]: use few
    positions."""
    with torch.no_grad():
        own = (hidden @ weight[:vocabulary].T).float().log_softmax(-1)
    with torch.enable_grad():
        result = chunked_head(
            hidden.detach().requires_grad_(),
            weight.detach(),
            TopKCrossEntropy(),
            LossInputs(sampled_ids=own.argmax(-1), teacher_logprobs=own),
            torch.full((len(hidden),), 1.0 / max(len(hidden), 1), device=hidden.device),
            vocabulary=vocabulary,
            chunk_size=chunk_size,
        )
    return result.token_losses + (own.exp() * own).sum(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """The inputs of the pass apart from the two tensors, and its results per position."""

    token_loss: TokenLoss
    inputs: LossInputs
    coefficients: Tensor
    vocabulary: int
    chunk_size: int
    with_gradient: bool
    results: dict[str, Tensor] = field(default_factory=dict)


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, work: _Work) -> Tensor:
        wants = [work.with_gradient and wanted for wanted in ctx.needs_input_grad[:2]]
        loss, ctx.gradients = _run(hidden, weight, work, for_hidden=wants[0], for_weight=wants[1])
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if ctx.gradients is None:
            raise RuntimeError(
                "backward of the chunked head can run only once: call chunked_head again for a second one"
            )
        (hidden, weight), ctx.gradients = ctx.gradients, None
        for gradient in (hidden, weight):
            if gradient is not None:
                gradient.mul_(upstream[0])
        return hidden, weight, None


def _run(
    hidden: Tensor, weight: Tensor, work: _Work, *, for_hidden: bool, for_weight: bool
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """Run the pass over all chunks; return the loss and the requested gradients."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    index = work.coefficients.nonzero().flatten()
    grad_hidden = torch.zeros_like(hidden) if for_hidden else None
    summed = wide if len(index) > work.chunk_size else weight.dtype
    grad_weight = torch.zeros_like(weight, dtype=summed) if for_weight else None
    buffer = hidden.new_empty(min(work.chunk_size, len(index)), work.vocabulary)
    head = weight[: work.vocabulary]
    loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for rows in index.split(work.chunk_size):  # one empty chunk if all are skipped
        states, coefficients = hidden[rows], work.coefficients[rows].to(wide)
        narrow = torch.mm(states, head.T, out=buffer[: len(rows)])
        values, logit_gradient = _loss_and_logit_gradient(
            work, narrow, rows, coefficients, for_hidden or for_weight
        )
        loss += (values.losses.double() * work.coefficients[rows]).sum()
        _keep(work, values, rows, len(hidden))
        if logit_gradient is not None:
            if grad_hidden is not None:
                grad_hidden[rows] = logit_gradient @ head
            if grad_weight is not None:
                _add_outer_(grad_weight[: work.vocabulary], logit_gradient, states)
    grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
    return loss.to(wide), (grad_hidden, grad_weight)


def _loss_and_logit_gradient(
    work: _Work, logits: Tensor, rows: Tensor, coefficients: Tensor, with_gradient: bool
) -> tuple[LossOutputs, Tensor | None]:
    """Return the losses of a chunk and, if requested, the gradient of their weighted sum with respect to the logits, which it
    overwrites. The gradient has the dtype of the logits; the arithmetic uses that of the coefficients."""
    inputs, wide = work.inputs.rows(rows), coefficients.dtype
    if not with_gradient:
        return work.token_loss(logits.to(wide), inputs), None
    if isinstance(work.token_loss, AnalyticTokenLoss):
        return _analytic_(work.token_loss, logits, inputs, coefficients), logits
    with torch.enable_grad():
        widened = logits.detach().to(wide).requires_grad_()
        values = work.token_loss(widened, inputs)
        (logit_gradient,) = torch.autograd.grad((values.losses * coefficients).sum(), widened)
    return LossOutputs(losses=values.losses.detach(), diagnostics=values.diagnostics), logits.copy_(
        logit_gradient
    )


def _analytic_(
    token_loss: AnalyticTokenLoss, logits: Tensor, inputs: LossInputs, coefficients: Tensor
) -> LossOutputs:
    """Call `gradient_`; if logits must be cast to a wider dtype, a few rows at a time, so that no wide copy of a chunk exists."""
    if logits.dtype == coefficients.dtype:
        return token_loss.gradient_(logits, inputs, coefficients)
    parts, step = [], rows_at_a_time(logits)
    for start in range(0, max(len(logits), 1), step):
        block = slice(start, start + step)
        widened = logits[block].to(coefficients.dtype)
        parts.append(token_loss.gradient_(widened, inputs.rows(block), coefficients[block]))
        logits[block] = widened
    return LossOutputs.joined(parts)


def _add_outer_(total: Tensor, logit_gradient: Tensor, states: Tensor) -> None:
    """Compute total [V, H] += slope [n, V].T @ states [n, H]; if `total` has a wider dtype, in blocks of rows."""
    if total.dtype == states.dtype:
        total.addmm_(logit_gradient.T, states)
        return
    step = _WEIGHT_ROWS[total.device.type]
    for start in range(0, len(total), step):
        block = slice(start, start + step)
        total[block] += logit_gradient[:, block].T @ states


def _keep(work: _Work, values: LossOutputs, rows: Tensor, count: int) -> None:
    for name, part in {"loss": values.losses, **values.diagnostics}.items():
        if name not in work.results:
            work.results[name] = torch.full((count,), torch.nan, dtype=part.dtype, device=part.device)
        work.results[name][rows] = part.detach()


def _check(
    hidden: Tensor,
    weight: Tensor,
    inputs: LossInputs,
    coefficients: Tensor,
    vocabulary: int,
    chunk_size: int,
) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and head {tuple(weight.shape)}: must be [T, H] and [V, H] with the same H"
        )
    if hidden.dtype != weight.dtype or hidden.dtype not in _DTYPES:
        raise ValueError(
            f"hidden is {hidden.dtype}, the head {weight.dtype}: both must be bf16, fp32 or fp64, and the same"
        )
    if coefficients.shape != (len(hidden),) or len(inputs) != len(hidden):
        raise ValueError(
            f"{len(hidden)} states, {len(inputs)} positions and coefficients {tuple(coefficients.shape)}: all must have the"
            " same length"
        )
    if not 1 <= vocabulary <= len(weight) or chunk_size < 1:
        raise ValueError(
            f"vocabulary {vocabulary} must be from 1 to {len(weight)}, and chunk size {chunk_size} at least 1"
        )
    if not bool(coefficients.isfinite().all()):
        bad = int((~coefficients.isfinite()).nonzero()[0])
        raise ValueError(f"position {bad} has coefficient {coefficients[bad].item()}: it must be finite")
    ids = inputs.sampled_ids
    outside = ((ids < 0) | (ids >= vocabulary)).nonzero().flatten().tolist()
    if outside:
        raise ValueError(
            f"position {outside[0]} has token {ids[outside[0]].item()} outside the vocabulary of {vocabulary}"
        )
