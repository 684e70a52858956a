"""The table `head` of gpu.py: the LM head with its loss, compared with its matrix products alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from gpu_meter import MIB, Meter, Report, Row, Table, free
from torch import Tensor

from training.losses.base import LossInputs
from training.losses.head import chunked_head
from training.losses.token_losses import TopKCrossEntropy

NAIVE, CHUNKED, FROZEN = "naive", "chunked", "chunked, head frozen"
HEAD = Table(
    name="head",
    columns=(
        ("hidden", "H", ","),
        ("tokens", "tokens", ","),
        ("way", "method", ""),
        ("chunk", "chunk", ","),
        ("seconds", "seconds", ".4g"),
        ("floor_seconds", "products in these chunks", ".4g"),
        ("ratio", "ratio", ".2f"),
        ("whole_floor_seconds", "unchunked products", ".4g"),
        ("whole_ratio", "ratio", ".2f"),
        ("extra_mib", "peak extra MiB", ",.0f"),
        ("tokens_per_second", "tokens/s", ",.0f"),
        ("loss", "loss", ".5f"),
        ("gradient_error", "gradient error", ".1e"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """T positions: `hidden` [T, H] and `weight` [V, H] of the student, the teacher's top k, and coefficients 1 / T."""

    hidden: Tensor
    weight: Tensor
    loss_inputs: LossInputs
    coefficients: Tensor

    def gradients(self) -> list[Tensor]:
        """Return the gradients of `hidden` and `weight`, in this order, that are not None."""
        return [leaf.grad for leaf in (self.hidden, self.weight) if leaf.grad is not None]

    def clear(self) -> None:
        self.hidden.grad = self.weight.grad = None


def draw_loss_inputs(sampled: Tensor, vocabulary: int, k: int, draw: torch.Generator) -> LossInputs:
    """Return k random teacher tokens (int32) for each sampled token [T], with total probability 0.95, on the device of
    `sampled`."""
    steps = torch.arange(k, device=sampled.device) * (vocabulary // k)
    scores = torch.randn(len(sampled), k, generator=draw, device=sampled.device)
    return LossInputs(
        sampled_ids=sampled,
        teacher_logprobs=torch.log_softmax(3 * scores, -1) - 0.05,
        teacher_ids=((sampled[:, None] + steps) % vocabulary).int(),
    )


def draw_inputs(tokens: int, hidden: int, vocabulary: int, k: int, device: torch.device) -> Inputs:
    """Return random bf16 inputs that require gradients, the same on every call."""
    draw = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device=device, dtype=torch.bfloat16)

    sampled = torch.randint(vocabulary, (tokens,), generator=draw, device=device)
    return Inputs(
        hidden=normal(tokens, hidden).requires_grad_(),
        weight=normal(vocabulary, hidden).mul_(0.05).requires_grad_(),
        loss_inputs=draw_loss_inputs(sampled, vocabulary, k, draw),
        coefficients=torch.full((tokens,), 1.0 / tokens, dtype=torch.float64, device=device),
    )


def step(inputs: Inputs, way: str, chunk: int) -> Tensor:
    """Return the loss and leave its gradients in the inputs."""
    inputs.clear()
    loss = _naive(inputs) if way == NAIVE else _chunked(inputs, chunk, frozen=way == FROZEN)
    loss.backward()
    return loss.detach()


def _naive(inputs: Inputs) -> Tensor:
    """Return the loss from all logits, by log-softmax, gather and autograd."""
    loss_inputs = inputs.loss_inputs
    assert loss_inputs.teacher_logprobs is not None and loss_inputs.teacher_ids is not None
    logprobs = torch.log_softmax((inputs.hidden @ inputs.weight.T).float(), dim=-1)
    share = loss_inputs.teacher_logprobs.softmax(-1)
    losses = -(share * logprobs.gather(-1, loss_inputs.teacher_ids.long())).sum(-1)
    return (losses * inputs.coefficients.float()).sum()


def _chunked(inputs: Inputs, chunk: int, *, frozen: bool) -> Tensor:
    return chunked_head(
        inputs.hidden,
        inputs.weight.detach() if frozen else inputs.weight,
        TopKCrossEntropy(),
        inputs.loss_inputs,
        inputs.coefficients,
        chunk_size=chunk,
    ).loss


def products(inputs: Inputs, chunk: int, *, frozen: bool) -> Callable[[], None]:
    """Return a function that computes only the head's matrix products, in chunks and into preallocated memory: the logits, the
    gradient of the hidden states and, unless the head is frozen, the gradient of its weight."""
    hidden, weight = inputs.hidden.detach(), inputs.weight.detach()
    logits = hidden.new_empty(min(chunk, len(hidden)), len(weight))
    back, outer = torch.empty_like(hidden), None if frozen else torch.empty_like(weight)

    def work() -> None:
        for start in range(0, len(hidden), chunk):
            states = hidden[start : start + chunk]
            logit_gradient = logits[: len(states)]
            torch.matmul(states, weight.T, out=logit_gradient)
            torch.matmul(logit_gradient, weight, out=back[start : start + chunk])
            if outer is not None:
                torch.matmul(logit_gradient.T, states, out=outer)

    return work


def measure(meter: Meter, inputs: Inputs, way: str, chunk: int, expected: Sequence[Tensor]) -> Row:
    """Measure one method. `expected`: the naive gradients of hidden and weight, or empty if there is no reference."""
    frozen = way == FROZEN
    seconds = meter.seconds(lambda: step(inputs, way, chunk))
    loss = float(step(inputs, way, chunk))
    error = max(map(relative_error, inputs.gradients(), expected), default=None)
    inputs.clear()
    memory = meter.memory(lambda: step(inputs, way, chunk))
    if memory["extra_mib"] is not None and not frozen:
        memory["extra_mib"] -= inputs.weight.nbytes / MIB
    inputs.clear()
    floor = meter.seconds(products(inputs, chunk, frozen=frozen))
    whole = meter.seconds(products(inputs, len(inputs.hidden), frozen=frozen))
    return {
        "seconds": seconds,
        "floor_seconds": floor,
        "ratio": seconds / floor,
        "whole_floor_seconds": whole,
        "whole_ratio": seconds / whole,
        "tokens_per_second": len(inputs.hidden) / seconds,
        "loss": loss,
        "gradient_error": error,
        **memory,
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return |found - expected| / |expected| in the Euclidean norm."""
    apart, size = (torch.linalg.vector_norm(one, dtype=torch.float32) for one in (found - expected, expected))
    return float(apart / size)


def head_rows(options: argparse.Namespace, meter: Meter, report: Report) -> None:
    """Report the table of the head and, after each number of tokens, the possible speedup over the fastest chunk size."""
    for hidden in dict.fromkeys(options.hidden):
        for tokens in options.tokens:
            inputs = draw_inputs(tokens, hidden, options.vocabulary, options.k, meter.device)
            trained = [row for row in _rows(options.chunks, meter, report, inputs) if row["way"] == CHUNKED]
            if trained:
                report.log_line(what_is_to_win(min(trained, key=lambda row: row["seconds"])))


def _rows(chunks: Sequence[int], meter: Meter, report: Report, inputs: Inputs) -> Iterator[Row]:
    """Report the naive method, then the chunked ones for every chunk size. Yield the rows without an error, and naive's."""
    tokens, hidden = inputs.hidden.shape
    expected: list[Tensor] = []

    def naive() -> Row:
        row = measure(meter, inputs, NAIVE, tokens, [])
        step(inputs, NAIVE, tokens)
        expected.extend(inputs.gradients())
        return row

    known = {"hidden": hidden, "tokens": tokens}
    yield report.attempt(HEAD, known | {"way": NAIVE, "chunk": None}, naive)
    for chunk in sorted({min(chunk, tokens) for chunk in chunks}):
        for way in (CHUNKED, FROZEN):
            inputs.clear()
            free()
            row = report.attempt(
                HEAD,
                known | {"way": way, "chunk": chunk},
                lambda way=way, chunk=chunk: measure(meter, inputs, way, chunk, expected),
            )
            if "error" not in row:
                yield row


def what_is_to_win(row: Row) -> str:
    """Return a sentence on the share of a head's time that is not spent in its matrix products."""
    cut, whole = (min(1.0, 1 / row[name]) for name in ("ratio", "whole_ratio"))
    return (
        f"H = {row['hidden']:,}, {row['tokens']:,} tokens: the chunked head is fastest with chunks of {row['chunk']:,}. Its three"
        f" matrix products alone take {cut:.0%} of that time in the same chunks, {whole:.0%} unchunked. A fused kernel with the"
        f" same products could save at most {1 - cut:.0%} of the time, or {1 - whole:.0%} without chunking."
    )
