"""The tables `student` and `teacher` of gpu.py: full models with random weights, compared with the FLOPs that they need."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gpu_head import draw_loss_inputs
from gpu_meter import MIB, Meter, Report, Row, Table
from torch import Tensor

from training.data.attention import AttentionChoice, choose_attention, implementation
from training.data.batches import (
    Batch,
    TokenSequence,
    batches_by_budget,
    join_sequences,
    make_batch,
    response_ids,
)
from training.data.packing import pack
from training.losses.base import LossInputs
from training.losses.head import chunked_head
from training.losses.token_losses import TopKCrossEntropy
from training.scorers.scoring import position_scores
from training.student.network import Head, Network

JOINED, PACKED, SINGLE = "one row, varlen", "packed", "one to a row"
STUDENT_WAYS = ((PACKED, True), (PACKED, False), (SINGLE, True))  # (rows, checkpointing)
SDPA = AttentionChoice(kind="sdpa", reason="measured")
WORK = (
    ("tokens", "tokens", ","),
    ("laid_out", "with padding", ","),
    ("response_tokens", "response tokens", ","),
    ("seconds", "seconds", ".4g"),
    ("tokens_per_second", "tokens/s", ",.0f"),
    ("product_tflops", "matrix product TFLOP/s", ".4g"),
    ("floor_seconds", "floor", ".4g"),
    ("ratio", "ratio", ".2f"),
    ("utilisation", "utilisation", ".1%"),
)
PEAK = ("peak_mib", "peak MiB", ",.0f")
STUDENT = Table(
    name="student",
    columns=(
        ("way", "rows", ""),
        ("checkpointing", "checkpointing", ""),
        ("micro_batches", "micro-batches", ","),
        *WORK,
        ("utilisation_all_work", "including recomputation", ".1%"),
        PEAK,
    ),
)
TEACHER = Table(
    name="teacher",
    columns=(
        ("chunk", "chunk", ","),
        *WORK,
        ("body_seconds", "layers", ".4g"),
        ("head_seconds", "head and top k", ".4g"),
        ("head_share", "head's share", ".1%"),
        ("head_floor_seconds", "head's product alone", ".4g"),
        ("head_ratio", "ratio", ".2f"),
        ("topk_seconds", "top k alone", ".4g"),
        ("copy_seconds", "copy", ".4g"),
        ("copy_floor_seconds", "page-locked copy", ".4g"),
        ("copy_ratio", "ratio", ".2f"),
        PEAK,
    ),
)


# --- models and sequences ----------------------------------------------------------------------------------------


def build_model(*, hidden: int, layers: int, vocabulary: int, tied: bool, device: torch.device) -> Any:
    """Return a Qwen3 model with random bf16 weights, in the proportions common to 1.7B (H = 2,048) and 8B (H = 4,096)."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM, Qwen3Config

    heads = max(1, hidden // 128)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=min(8, heads),
        head_dim=min(128, hidden),
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")


def forward_flops(model: Any, sequences: Sequence[TokenSequence]) -> tuple[int, int]:
    """Return the FLOPs of a forward pass over the sequences: of the layers with causal attention, and of the head for response
    tokens only. Norms, softmax and rotary embeddings are not counted."""
    config = model.config
    matrices = sum(p.numel() for p in model.base_model.layers.parameters() if p.ndim == 2)
    width = config.num_attention_heads * config.head_dim
    lengths = [len(sequence.tokens) for sequence in sequences]
    attention = 2 * config.num_hidden_layers * width * sum(length**2 for length in lengths)
    scored = sum(len(sequence.response) for sequence in sequences)
    return 2 * matrices * sum(lengths) + attention, 2 * config.vocab_size * config.hidden_size * scored


def draw_sequences(count: int, longest: int, vocabulary: int) -> list[TokenSequence]:
    """Return random sequences: prompts of 1/64 to 1/16 of `longest`, responses log-normal with median longest/4, sigma 0.6."""
    draw = np.random.default_rng(0)
    prompts = draw.integers(1 + longest // 64, 1 + longest // 16, count, endpoint=True)
    drawn = longest / 4 * np.exp(0.6 * draw.standard_normal(count))
    responses = np.clip(drawn.astype(int), 1, longest)
    return [
        TokenSequence(
            tokens=draw.integers(vocabulary, size=prompt + response, dtype=np.int32),
            prompt_length=int(prompt),
        )
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def work_row(sequences: Sequence[TokenSequence], seconds: float, flops: int, rate: float) -> Row:
    """Return the columns `WORK` for sequences that took `seconds` and need `flops`; `rate`: FLOPs per second of the product."""
    tokens = sum(len(sequence.tokens) for sequence in sequences)
    return {
        "tokens": tokens,
        "response_tokens": sum(len(sequence.response) for sequence in sequences),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "product_tflops": rate / 1e12,
        "floor_seconds": flops / rate,
        "ratio": seconds * rate / flops,
        "utilisation": flops / rate / seconds,
    }


# --- the student -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Sequences and, on the host, the teacher's top k for their T response tokens. `budget`: positions of packed rows."""

    sequences: list[TokenSequence]
    loss_inputs: LossInputs
    budget: int

    def laid_out(self, device: torch.device, way: str) -> Batch:
        """Return the rows as the training stage arranges them."""
        if way == JOINED:
            return join_sequences(self.sequences, device)
        packed = way == PACKED
        return make_batch(self.sequences, device, pack=packed, budget=self.budget if packed else None)


def micro_batches(options: argparse.Namespace) -> list[MicroBatch]:
    """Return the random sequences in the micro-batches of one student rank."""
    sequences = draw_sequences(options.sequences, options.longest, options.vocabulary)
    (chosen,) = pack([len(sequence.tokens) for sequence in sequences], budget=options.micro_batch)
    draw, batches = torch.Generator().manual_seed(0), []
    for indices in chosen:
        own = [sequences[index] for index in indices]
        sampled = torch.from_numpy(response_ids(own))
        loss_inputs = draw_loss_inputs(sampled, options.vocabulary, options.k, draw)
        batches.append(MicroBatch(sequences=own, loss_inputs=loss_inputs, budget=options.micro_batch))
    return batches


def student_step(network: Network, batches: Sequence[MicroBatch], *, way: str, chunk: int) -> float:
    """Compute the gradient of an update from all micro-batches; return its loss, the mean over response tokens."""
    device, total = network.model.device, sum(len(batch.loss_inputs) for batch in batches)
    network.zero_grad()
    loss = 0.0
    for batch in batches:
        loss_inputs = batch.loss_inputs.to(device)
        shares = torch.full((len(loss_inputs),), 1.0 / total, dtype=torch.float64, device=device)

        def work(hidden: Tensor, weight: Tensor, seen: Any = loss_inputs, shares: Any = shares) -> Tensor:
            return chunked_head(hidden, weight, TopKCrossEntropy(), seen, shares, chunk_size=chunk).loss

        part = network(batch.laid_out(device, way), work)
        part.backward()
        loss += float(part.detach())
    return loss


def measure_student(
    options: argparse.Namespace, meter: Meter, network: Network, batches: Sequence[MicroBatch], way: str
) -> Row:
    """Measure one kind of rows, with gradient checkpointing as set in the network."""
    sequences = [sequence for batch in batches for sequence in batch.sequences]
    layers, head = forward_flops(network.model, sequences)
    again = layers if network.model.is_gradient_checkpointing else 0

    def step() -> float:
        return student_step(network, batches, way=way, chunk=options.head_chunk)

    rate, seconds, loss = meter.rate(options.product), meter.seconds(step), step()
    network.zero_grad()
    return {
        **work_row(sequences, seconds, 3 * (layers + head), rate),
        "utilisation_all_work": (3 * (layers + head) + again) / rate / seconds,
        "loss": loss,
        **meter.memory(step),
    }


def attention_of(model: Any) -> AttentionChoice:
    """Return the attention that the training stage would choose for the model."""
    device, config = model.device, model.config
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return choose_attention(capability=capability, dtype="bfloat16", head_dim=config.head_dim)


def student_rows(options: argparse.Namespace, meter: Meter, report: Report) -> None:
    """Report the table of the student: packed rows with and without checkpointing, and one sequence per row (no mask). On GPUs
    that have variable-length attention, also the single row of the training stage."""
    model = build_model(
        hidden=options.hidden[0],
        layers=options.layers[0],
        vocabulary=options.vocabulary,
        tied=True,
        device=meter.device,
    )
    model.lm_head = Head(model.lm_head.weight)
    chosen, batches = attention_of(model), micro_batches(options)
    joined = ((JOINED, True), (JOINED, False)) if chosen.kind == "varlen" else ()
    for way, checkpointing in (*joined, *STUDENT_WAYS):
        attention = chosen if way == JOINED else SDPA
        model.set_attn_implementation(implementation(attention))
        network = Network(model.train(), attention)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
        known = {"way": way, "checkpointing": checkpointing, "micro_batches": len(batches)}
        rows = [batch.laid_out(torch.device("cpu"), way) for batch in batches]
        known["laid_out"] = sum(one.ids.numel() for one in rows)
        report.attempt(
            STUDENT,
            known,
            lambda way=way, network=network: measure_student(options, meter, network, batches, way),
        )
        network.zero_grad()


# --- the teacher -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """A frozen model, its padded batches, and the number k of most likely tokens to return."""

    model: Any
    batches: list[list[TokenSequence]]
    k: int

    @property
    def weight(self) -> Tensor:
        return self.model.get_output_embeddings().weight

    def hidden(self, batch: Sequence[TokenSequence]) -> Tensor:
        """Return the hidden states [T, H] that predict the T response tokens of a batch."""
        laid = make_batch(batch, self.model.device, pack=False)
        states = self.model.base_model(input_ids=laid.ids, use_cache=False).last_hidden_state
        return states.flatten(0, 1)[laid.predicting]

    def topk(self, hidden: Tensor, chunk: int) -> list[Tensor]:
        """Return log-probabilities and, unless k is the vocabulary size, ids, each [T, k], on the device."""
        ids = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)  # unused: of sampled tokens
        return list(position_scores(hidden, self.weight, ids, top_k=self.k, chunk=chunk).values())

    def whole(self, chunk: int) -> None:
        """Score all batches and copy the results to the host."""
        for batch in self.batches:
            to_host(self.topk(self.hidden(batch), chunk))


def to_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    return [tensor.cpu().numpy() for tensor in tensors]


def each(work: Callable[[Any], object], items: Sequence[Any]) -> None:
    """Call `work` on every item and discard the results."""
    for item in items:
        work(item)


def head_parts(
    states: Sequence[Tensor], weight: Tensor, chunk: int, k: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return functions for the head's product alone and the top k alone (always of the same logits), in the same chunks."""
    parts = [part for hidden in states for part in hidden.split(chunk)]
    longest = max(parts, key=len)
    logits = weight.new_empty(len(longest), len(weight))
    wide = (longest @ weight.T).float()
    return (
        lambda: each(lambda part: torch.matmul(part, weight.T, out=logits[: len(part)]), parts),
        lambda: each(lambda part: wide[: len(part)].topk(k, dim=-1), parts),
    )


def copies(found: Sequence[Sequence[Tensor]]) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return functions that copy the results of all batches to new arrays on the host, and to preallocated memory that is
    page-locked if there is a GPU."""
    parts = [part for one in found for part in one]
    pairs = [(torch.empty_like(part, device="cpu", pin_memory=part.is_cuda), part) for part in parts]
    return lambda: each(to_host, found), lambda: each(lambda pair: pair[0].copy_(pair[1]), pairs)


def measure_teacher(
    options: argparse.Namespace, meter: Meter, scoring: Scoring, states: Sequence[Tensor], chunk: int
) -> Row:
    """Measure one chunk size. `states`: the hidden states of each batch, used to time the head alone."""
    sequences = [sequence for batch in scoring.batches for sequence in batch]
    flops = sum(forward_flops(scoring.model, sequences))
    rate, seconds = meter.rate(options.product), meter.seconds(lambda: scoring.whole(chunk))
    memory = meter.memory(lambda: scoring.whole(chunk))
    if memory["peak_mib"] is not None:
        memory["peak_mib"] -= sum(hidden.nbytes for hidden in states) / MIB
    body = meter.seconds(lambda: each(scoring.hidden, scoring.batches))
    head = meter.seconds(lambda: each(lambda hidden: scoring.topk(hidden, chunk), states))
    product, topk = map(meter.seconds, head_parts(states, scoring.weight, chunk, scoring.k))
    copy, locked = map(meter.seconds, copies([scoring.topk(hidden, chunk) for hidden in states]))
    return {
        **work_row(sequences, seconds, flops, rate),
        "body_seconds": body,
        "head_seconds": head,
        "head_share": head / (head + body),
        "head_floor_seconds": product,
        "head_ratio": head / product,
        "topk_seconds": topk,
        "copy_seconds": copy,
        "copy_floor_seconds": locked,
        "copy_ratio": copy / locked,
        **memory,
    }


@torch.inference_mode()
def teacher_rows(options: argparse.Namespace, meter: Meter, report: Report) -> None:
    """Report the table of the teacher, with one row per chunk size."""
    model = build_model(
        hidden=options.hidden[-1],
        layers=options.layers[-1],
        vocabulary=options.vocabulary,
        tied=False,
        device=meter.device,
    )
    sequences = draw_sequences(options.sequences, options.longest, options.vocabulary)
    lengths = [len(sequence.tokens) for sequence in sequences]
    chosen = batches_by_budget(lengths, options.micro_batch)
    batches = [[sequences[index] for index in indices] for indices in chosen]
    scoring = Scoring(model=model.eval(), batches=batches, k=options.k)
    laid_out = sum(len(indices) * lengths[indices[0]] for indices in chosen)
    states = [scoring.hidden(batch) for batch in batches]
    for chunk in options.chunks:
        report.attempt(
            TEACHER,
            {"chunk": chunk, "laid_out": laid_out},
            lambda chunk=chunk: measure_teacher(options, meter, scoring, states, chunk),
        )
