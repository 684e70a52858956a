"""The row `head` of gpu.py: the LM head with its loss, beside its matrix products alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from gpu_meter import MIB, Meter, Report, Row, Table, free
from torch import Tensor

from training.objectives.base import Positions
from training.objectives.head import chunked_head
from training.objectives.token_losses import TopKCrossEntropy

NAIVE, CHUNKED, FROZEN = "naive", "chunked", "chunked, head frozen"
HEAD = Table(
    name="head",
    columns=(
        ("hidden", "H", ","),
        ("tokens", "tokens", ","),
        ("way", "way", ""),
        ("chunk", "chunk", ","),
        ("seconds", "seconds", ".4g"),
        ("floor_seconds", "products in these chunks", ".4g"),
        ("ratio", "ratio", ".2f"),
        ("whole_floor_seconds", "products in one piece", ".4g"),
        ("whole_ratio", "ratio", ".2f"),
        ("extra_mib", "extra MiB at peak", ",.0f"),
        ("tokens_per_second", "tokens/s", ",.0f"),
        ("loss", "loss", ".5f"),
        ("gradient_error", "gradients off naive's", ".1e"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """T positions: `hidden` [T, H] and `weight` [V, H] of the student, what the teacher thinks of them, c = 1 / T each."""

    hidden: Tensor
    weight: Tensor
    positions: Positions
    coefficients: Tensor

    def gradients(self) -> list[Tensor]:
        """Those of hidden and weight that are there, in this order."""
        return [leaf.grad for leaf in (self.hidden, self.weight) if leaf.grad is not None]

    def clear(self) -> None:
        self.hidden.grad = self.weight.grad = None


def draw_positions(sampled: Tensor, vocabulary: int, k: int, draw: torch.Generator) -> Positions:
    """k different tokens of a teacher (int32) for each sampled one [T], with 0.95 of the mass, on the device of `sampled`."""
    steps = torch.arange(k, device=sampled.device) * (vocabulary // k)
    scores = torch.randn(len(sampled), k, generator=draw, device=sampled.device)
    return Positions(
        sampled_ids=sampled,
        teacher_logprobs=torch.log_softmax(3 * scores, -1) - 0.05,
        teacher_ids=((sampled[:, None] + steps) % vocabulary).int(),
    )


def draw_inputs(tokens: int, hidden: int, vocabulary: int, k: int, device: torch.device) -> Inputs:
    """The same random positions each time, in bf16, with gradients wanted."""
    draw = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device=device, dtype=torch.bfloat16)

    sampled = torch.randint(vocabulary, (tokens,), generator=draw, device=device)
    return Inputs(
        hidden=normal(tokens, hidden).requires_grad_(),
        weight=normal(vocabulary, hidden).mul_(0.05).requires_grad_(),
        positions=draw_positions(sampled, vocabulary, k, draw),
        coefficients=torch.full((tokens,), 1.0 / tokens, dtype=torch.float64, device=device),
    )


def step(inputs: Inputs, way: str, chunk: int) -> Tensor:
    """The loss, with its gradients left in the inputs."""
    inputs.clear()
    loss = _naive(inputs) if way == NAIVE else _chunked(inputs, chunk, frozen=way == FROZEN)
    loss.backward()
    return loss.detach()


def _naive(inputs: Inputs) -> Tensor:
    """Whole logits, log-softmax and gather, left to autograd."""
    positions = inputs.positions
    assert positions.teacher_logprobs is not None and positions.teacher_ids is not None
    logprobs = torch.log_softmax((inputs.hidden @ inputs.weight.T).float(), dim=-1)
    share = positions.teacher_logprobs.softmax(-1)
    losses = -(share * logprobs.gather(-1, positions.teacher_ids.long())).sum(-1)
    return (losses * inputs.coefficients.float()).sum()


def _chunked(inputs: Inputs, chunk: int, *, frozen: bool) -> Tensor:
    return chunked_head(
        inputs.hidden,
        inputs.weight.detach() if frozen else inputs.weight,
        TopKCrossEntropy(),
        inputs.positions,
        inputs.coefficients,
        chunk_size=chunk,
    ).loss


def products(inputs: Inputs, chunk: int, *, frozen: bool) -> Callable[[], None]:
    """The head's matrix products alone, a chunk at a time, into memory that is there: logits, the gradient of the states and,
    unless the head is frozen, that of its weight."""
    hidden, weight = inputs.hidden.detach(), inputs.weight.detach()
    logits = hidden.new_empty(min(chunk, len(hidden)), len(weight))
    back, outer = torch.empty_like(hidden), None if frozen else torch.empty_like(weight)

    def work() -> None:
        for start in range(0, len(hidden), chunk):
            states = hidden[start : start + chunk]
            slope = logits[: len(states)]
            torch.matmul(states, weight.T, out=slope)
            torch.matmul(slope, weight, out=back[start : start + chunk])
            if outer is not None:
                torch.matmul(slope.T, states, out=outer)

    return work


def measure(meter: Meter, inputs: Inputs, way: str, chunk: int, expected: Sequence[Tensor]) -> Row:
    """Figures of one way; `expected`: naive's gradients of hidden and weight, or nothing to compare with."""
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
    """|found - expected| / |expected| in the Euclidean norm."""
    apart, size = (torch.linalg.vector_norm(one, dtype=torch.float32) for one in (found - expected, expected))
    return float(apart / size)


def head_rows(options: argparse.Namespace, meter: Meter, report: Report) -> None:
    """The table of the head, and after each count of tokens what its fastest chunk leaves to win."""
    for hidden in dict.fromkeys(options.hidden):
        for tokens in options.tokens:
            inputs = draw_inputs(tokens, hidden, options.vocabulary, options.k, meter.device)
            trained = [row for row in _rows(options.chunks, meter, report, inputs) if row["way"] == CHUNKED]
            if trained:
                report.say(what_is_to_win(min(trained, key=lambda row: row["seconds"])))


def _rows(chunks: Sequence[int], meter: Meter, report: Report, inputs: Inputs) -> Iterator[Row]:
    """Reports naive, then the chunked ways in every chunk, and gives the rows that could be measured."""
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
    """The share of a head's time that is not its matrix products, in words."""
    cut, whole = (min(1.0, 1 / row[name]) for name in ("ratio", "whole_ratio"))
    return (
        f"H = {row['hidden']:,}, {row['tokens']:,} tokens: the chunked head is fastest in chunks of {row['chunk']:,}. Its three"
        f" matrix products alone take {cut:.0%} of that time in the same chunks, {whole:.0%} in one piece: a fused kernel that"
        f" forms the same products could save at most {1 - cut:.0%} of the time, or {1 - whole:.0%} if it did not cut them."
    )
