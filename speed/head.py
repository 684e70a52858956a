"""Time and memory of the LM head with its loss, forward and backward: full logits compared with the chunked head.

    PYTHONPATH=. python speed/head.py --dtype float32

Every case runs in a separate process to measure its peak resident memory. The figure is the increase during the first run, with
the inputs already in memory, minus the gradient of the head's weight, which every method must produce (in bf16 the chunked head
sums it in float32; these 4 bytes per weight are included). Time is the minimum of several runs; on a busy machine compare the CPU
seconds of one thread (`--threads 1`). TRL and Liger run if they are installed. Neither has a top-k cross-entropy, so their
closest loss is measured: the full-vocabulary forward KL from the teacher's hidden states, with the teacher's matrix products.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from training.losses.base import LossInputs
from training.losses.head import CHUNK_SIZE, chunked_head
from training.losses.token_losses import TopKCrossEntropy

SEEN = {"naive": "torch", "chunked": "torch", "trl": "trl", "liger": "liger_kernel"}
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """T positions: `hidden` [T, H] and `weight` [V, H] of the student, `teacher` [T, H], its top k, and coefficients 1 / T."""

    hidden: Tensor
    weight: Tensor
    teacher: Tensor
    loss_inputs: LossInputs
    coefficients: Tensor


def draw_inputs(tokens: int, hidden: int, vocabulary: int, k: int, dtype: torch.dtype) -> Inputs:
    draw = torch.Generator().manual_seed(0)
    first = torch.randint(vocabulary, (tokens, 1), generator=draw)
    ids = (first + torch.arange(k) * (vocabulary // k)) % vocabulary
    logprobs = torch.log_softmax(3 * torch.randn(tokens, k, generator=draw), -1) - 0.05
    return Inputs(
        hidden=torch.randn(tokens, hidden, generator=draw).to(dtype).requires_grad_(),
        weight=(torch.randn(vocabulary, hidden, generator=draw) * 0.05).to(dtype).requires_grad_(),
        teacher=torch.randn(tokens, hidden, generator=draw).to(dtype),
        loss_inputs=LossInputs(sampled_ids=ids[:, 0], teacher_logprobs=logprobs, teacher_ids=ids),
        coefficients=torch.full((tokens,), 1.0 / tokens, dtype=torch.float64),
    )


def naive(inputs: Inputs, chunk_size: int) -> Tensor:
    """Return the loss from all logits, by log-softmax, gather and autograd."""
    loss_inputs = inputs.loss_inputs
    assert loss_inputs.teacher_logprobs is not None and loss_inputs.teacher_ids is not None
    logprobs = torch.log_softmax((inputs.hidden @ inputs.weight.T).float(), dim=-1)
    share = loss_inputs.teacher_logprobs.softmax(-1)
    losses = -(share * logprobs.gather(-1, loss_inputs.teacher_ids)).sum(-1)
    return (losses * inputs.coefficients.float()).sum()


def chunked(inputs: Inputs, chunk_size: int) -> Tensor:
    return chunked_head(
        inputs.hidden,
        inputs.weight,
        TopKCrossEntropy(),
        inputs.loss_inputs,
        inputs.coefficients,
        chunk_size=chunk_size,
    ).loss


def trl(inputs: Inputs, chunk_size: int) -> Tensor:
    from trl.kernels.chunked_divergence import (  # pyright: ignore[reportMissingImports]
        ChunkedDivergenceFunction,
    )

    weight = inputs.weight.detach()
    losses, _ = ChunkedDivergenceFunction.apply(
        inputs.hidden, inputs.weight, None, inputs.teacher, weight, None, 0.0
    )
    return losses.mean()


def liger(inputs: Inputs, chunk_size: int) -> Tensor:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss  # pyright: ignore[reportMissingImports]

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False)
    labels = inputs.loss_inputs.sampled_ids
    return loss(inputs.hidden, inputs.weight, inputs.teacher, inputs.weight.detach(), labels)


CASES: dict[str, Callable[[Inputs, int], Tensor]] = {
    "naive": naive,
    "chunked": chunked,
    "trl": trl,
    "liger": liger,
}


def status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def run_once(case: str, inputs: Inputs, chunk_size: int) -> tuple[float, float, float]:
    """Return the seconds of one forward and backward pass, its CPU seconds over all threads, and the loss."""
    inputs.hidden.grad = inputs.weight.grad = None
    start, cpu = time.perf_counter(), time.process_time()
    loss = CASES[case](inputs, chunk_size)
    loss.backward()
    return time.perf_counter() - start, time.process_time() - cpu, loss.item()


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measure one case in this process."""
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    warm = draw_inputs(8, options.hidden, 4096, 16, dtype)
    run_once(options.case, warm, options.chunk_size)
    del warm
    (tokens,) = options.tokens
    inputs = draw_inputs(tokens, options.hidden, options.vocabulary, options.k, dtype)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak
    before = status_mib("VmRSS")
    seconds, cpu, loss = run_once(options.case, inputs, options.chunk_size)
    extra = status_mib("VmHWM") - before - inputs.weight.numel() * inputs.weight.element_size() / MIB
    for _ in range(options.repeats - 1):
        again = run_once(options.case, inputs, options.chunk_size)
        seconds, cpu = min(seconds, again[0]), min(cpu, again[1])
    return {"seconds": seconds, "cpu": cpu, "extra_mib": extra, "loss": loss}


def in_own_process(case: str, tokens: int, options: argparse.Namespace) -> dict[str, float]:
    kept = ("hidden", "vocabulary", "k", "dtype", "chunk_size", "threads", "repeats")
    flags = [part for name in kept for part in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    command = [sys.executable, __file__, "--case", case, "--tokens", str(tokens), *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(tokens: int, options: argparse.Namespace) -> Iterator[str]:
    """Yield the table rows for one number of tokens. Ratios are relative to the first case of `--cases`."""
    base: dict[str, float] | None = None
    for case in options.cases:
        if find_spec(SEEN[case]) is None:
            yield f"| {tokens:,} | {case} | not installed | | | | | |"
            continue
        got = in_own_process(case, tokens, options)
        base = base or got
        yield (
            f"| {tokens:,} | {case} | {got['seconds']:.2f} | {got['seconds'] / base['seconds']:.2f}"
            f" | {got['cpu']:.2f} | {got['cpu'] / base['cpu']:.2f}"
            f" | {got['extra_mib']:,.0f} | {got['extra_mib'] / base['extra_mib']:.3f} |"
        )


def main() -> None:
    """Print the table row by row, or, with `--case` (in a subprocess), the JSON of one measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--k", type=int, default=512)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--chunk-size", type=int, default=CHUNK_SIZE)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options)))
        return
    print("| tokens | head | seconds | ratio | CPU seconds | ratio | peak extra MiB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for tokens in options.tokens:
        for row in rows(tokens, options):
            print(row, flush=True)


if __name__ == "__main__":
    main()
