"""The two kinds of attention without padding against sdpa with a dense mask. `varlen_attn` itself needs a GPU; here a plain
softmax attention over each sequence alone takes its place, written from its documentation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_model import write_tiny_model
from training.data.attention import (
    ON_CPU,
    PER_SEQUENCE,
    VARLEN,
    AttentionChoice,
    choose_attention,
    implementation,
    per_sequence_attention,
    varlen_attention,
)
from training.data.batches import TokenSequence, join_sequences, make_batch
from training.student.network import AdapterSettings, Head, Network, load_network

CPU = torch.device("cpu")
SDPA, JOINED = (AttentionChoice(kind=kind, reason="test") for kind in ("sdpa", "varlen"))
LENGTHS = (9, 3, 14, 1 + 1, 6)


def plain_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
    max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> torch.Tensor:  # fmt: skip
    """Softmax attention of each sequence alone: query i attends to keys from i - left to i; head h uses key head h // group."""
    left, right = window_size
    assert right == 0 and cu_seq_q is cu_seq_k and cu_seq_q.dtype == torch.int32
    bounds = cu_seq_q.tolist()
    assert bounds[0] == 0 and bounds[-1] == len(query) == len(key) == len(value)
    assert max_q == max_k == max(b - a for a, b in pairwise(bounds))
    group = query.shape[1] // key.shape[1]
    assert enable_gqa or group == 1
    rows = []
    for start, end in pairwise(bounds):
        for i in range(start, end):
            first = start if left < 0 else max(start, i - left)
            heads = []
            for head in range(query.shape[1]):
                keys, values = (t[first : i + 1, head // group] for t in (key, value))
                heads.append(((keys @ query[i, head]) * scale).softmax(-1) @ values)
            rows.append(torch.stack(heads))
    return torch.stack(rows)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", plain_varlen)


def drawn(vocabulary: int = 50, lengths: tuple[int, ...] = LENGTHS) -> list[TokenSequence]:
    random = np.random.default_rng(0)
    return [
        TokenSequence(tokens=random.integers(1, vocabulary, length).astype(np.int32), prompt_length=1)
        for length in lengths
    ]


def tiny(window: int | None, attention: AttentionChoice) -> Network:
    """A Qwen3 with four query heads and two key heads; with a window its second layer has it."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, use_sliding_window=window is not None, sliding_window=window or 4096,
        max_window_layers=1, initializer_range=0.3,
    )  # fmt: skip
    model: Any = Qwen3ForCausalLM(config)
    model.set_attn_implementation(implementation(attention))
    model.lm_head = Head(model.lm_head.weight)
    return Network(model, attention)


def states(network: Network, sequences: list[TokenSequence], **layout: Any) -> torch.Tensor:
    return network(network.attention.rows(sequences, CPU, **layout), lambda hidden, weight: hidden)


@pytest.mark.parametrize("window", [None, 1, 4])
def test_joined_rows_give_the_states_and_gradients_of_packed_rows_with_a_mask(
    on_cpu: None, window: int | None
) -> None:
    sequences, results = drawn(), []
    for attention, layout in (
        (SDPA, {"pack": False}), (SDPA, {"pack": True}), (JOINED, {"pack": True}), (ON_CPU, {"pack": True}),
    ):  # fmt: skip
        network = tiny(window, attention)
        found = states(network, sequences, **layout)
        (found * torch.arange(found.numel()).view_as(found).cos()).sum().backward()
        results.append((found.detach(), network.model.model.layers[0].self_attn.k_proj.weight.grad))
    (alone, gradient), *others = results
    for found, own in others:
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own, gradient, rtol=1e-3, atol=1e-4)


def test_a_sliding_window_changes_the_states(on_cpu: None) -> None:
    sequences = drawn()
    full, windowed = (states(tiny(window, JOINED), sequences, pack=True).detach() for window in (None, 4))
    assert not torch.allclose(full, windowed, atol=1e-2)


def test_joined_rows_have_no_padding_and_no_mask() -> None:
    batch = tiny(None, JOINED).attention.rows(drawn(lengths=(4, 2, 3)), CPU, pack=True, budget=100)
    assert batch.ids.shape == (1, 9) and batch.mask is None and batch.bounds is not None
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert batch.bounds.starts.tolist() == [0, 4, 6, 9] and batch.bounds.longest == 4
    assert batch.predicting.tolist() == [0, 1, 2, 4, 6, 7]
    empty = join_sequences([], CPU)
    assert empty.bounds is not None and empty.bounds.starts.tolist() == [0, 1] and empty.ids.tolist() == [[0]]
    assert make_batch(drawn(), CPU, pack=True).bounds is None


def test_no_mask_reaches_the_layers(on_cpu: None) -> None:
    network, seen = tiny(4, JOINED), []
    for layer in network.model.model.layers:
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
        )
    states(network, drawn(), pack=True)
    assert seen == [None, None]


def test_a_sequence_has_the_same_bits_alone_and_among_others() -> None:
    """Also its gradients: the attention of a sequence does not depend on the batch."""
    torch.manual_seed(0)
    states = [torch.randn(1, heads, 12, 8, requires_grad=True) for heads in (4, 2, 2)]
    slopes = torch.randn(1, 12, 4, 8)

    def attended(first: int, *ends: int) -> list[torch.Tensor]:
        chosen = [tensor[:, :, first : ends[-1]].detach().requires_grad_() for tensor in states]
        query, key, value = chosen
        starts = torch.tensor([0, *(end - first for end in ends)], dtype=torch.int32)
        output, _ = per_sequence_attention(None, query, key, value, None, scaling=0.4, cu_seq_lens_q=starts)
        output.backward(slopes[:, first : ends[-1]])
        gradients = [tensor.grad.transpose(1, 2) for tensor in chosen if tensor.grad is not None]
        return [output.detach(), *gradients]

    together, first, second = attended(0, 7, 12), attended(0, 7), attended(7, 12)
    assert len(together) == 4
    for whole, one, other in zip(together, first, second, strict=True):
        assert torch.equal(whole, torch.cat([one, other], dim=1))


def test_attention_of_one_sequence_has_the_models_dropout() -> None:
    states = torch.ones(1, 2, 64, 8)
    starts = torch.tensor([0, 64], dtype=torch.int32)
    kept, dropped = (
        per_sequence_attention(
            None, states, states, states, None, scaling=1.0, cu_seq_lens_q=starts, dropout=rate
        )[0]
        for rate in (0.0, 0.5)
    )
    assert torch.allclose(kept, torch.ones_like(kept)) and not torch.allclose(dropped, kept, atol=0.1)


def test_queries_keys_and_windows_are_passed_as_varlen_attn_documents_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[Any, Any]] = []

    def record(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append((arguments, options))
        return arguments[0]

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", record)
    query, key = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8)
    starts = torch.tensor([0, 4, 9], dtype=torch.int32)
    for window in (None, 6):
        output, weights = varlen_attention(
            None, query, key, key, None, scaling=0.5, cu_seq_lens_q=starts, max_length_q=5, sliding_window=window,
            dropout=0.0, position_ids=None,
        )  # fmt: skip
        assert torch.equal(output, query.transpose(1, 2)) and weights is None
    ((q, k, v), options), (_, windowed) = calls
    assert q.shape == (9, 4, 8) and k.shape == v.shape == (9, 2, 8) and torch.equal(q[3, 1], query[0, 1, 3])
    assert options == {
        "cu_seq_q": starts, "cu_seq_k": starts, "max_q": 5, "max_k": 5, "scale": 0.5, "window_size": (-1, 0),
        "enable_gqa": True,
    }  # fmt: skip
    assert windowed["window_size"] == (5, 0), "five tokens to the left and the token itself"


def test_the_arguments_exist_in_the_installed_torch() -> None:
    from torch.nn.attention.varlen import varlen_attn

    made = torch.randn(9, 4, 8, dtype=torch.bfloat16, device="meta", requires_grad=True)
    keys = torch.randn(9, 2, 8, dtype=torch.bfloat16, device="meta", requires_grad=True)
    starts = torch.zeros(3, dtype=torch.int32, device="meta")
    output: Any = varlen_attn(
        made, keys, keys, cu_seq_q=starts, cu_seq_k=starts, max_q=5, max_k=5, scale=0.5, window_size=(5, 0),
        enable_gqa=True,
    )  # fmt: skip
    output.sum().backward()
    assert output.shape == made.shape and keys.grad is not None and keys.grad.shape == keys.shape


@pytest.mark.parametrize(
    ("given", "kind", "reason"),
    [
        ({}, "varlen", "bfloat16 on a GPU: no padding, no mask"),
        ({"capability": (9, 0)}, "varlen", "bfloat16 on a GPU"),
        ({"capability": None}, "per_sequence", "no GPU: sequence by sequence"),
        ({"capability": None, "dtype": "float32", "dropout": 0.1}, "per_sequence", "no GPU"),
        ({"capability": (7, 5)}, "sdpa", "the GPU's compute capability is 7.5, below 8.0"),
        ({"dtype": "float32"}, "sdpa", "FlashAttention does not support float32"),
        ({"head_dim": 512}, "sdpa", "FlashAttention does not support heads of 512"),
        ({"head_dim": 100}, "sdpa", "FlashAttention does not support heads of 100"),
        ({"dropout": 0.1}, "sdpa", "attention dropout is 0.1"),
    ],
)
def test_attention_is_chosen_by_device_and_data_type(given: dict[str, Any], kind: str, reason: str) -> None:
    usual: dict[str, Any] = {"capability": (8, 0), "dtype": "bfloat16", "head_dim": 128}
    choice = choose_attention(**usual | given)
    assert choice.kind == kind and choice.reason.startswith(reason)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("student") / "tiny")


def loaded(folder: Path, **changes: Any) -> Network:
    given: dict[str, Any] = {"dtype": torch.bfloat16, "checkpointing": False, "lora": None, "seed": 0}
    return load_network(folder, **given | changes)


def test_a_loaded_student_uses_variable_length_attention_only_where_it_runs(folder: Path) -> None:
    configured: Callable[[Network], str] = lambda network: network.model.config._attn_implementation  # noqa: E731
    on_gpu = loaded(folder, capability=(9, 0))
    assert (on_gpu.attention.kind, configured(on_gpu)) == ("varlen", VARLEN)
    on_cpu, narrow = loaded(folder), loaded(folder, capability=(9, 0), dtype=torch.float32)
    assert (on_cpu.attention.kind, configured(on_cpu)) == ("per_sequence", PER_SEQUENCE)
    assert (narrow.attention.kind, configured(narrow)) == ("sdpa", "sdpa")
    assert "float32" in narrow.attention.reason


@pytest.mark.parametrize("lora", [None, AdapterSettings(rank=4, alpha=8.0, targets=("q_proj",))])
def test_checkpointing_recomputes_the_same_states(
    on_cpu: None, folder: Path, lora: AdapterSettings | None
) -> None:
    found = []
    for checkpointing in (False, True):
        network = loaded(folder, capability=(9, 0), checkpointing=checkpointing, lora=lora)
        output = states(network, drawn(512, (5, 3, 7)), pack=True)
        output.float().square().sum().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        found.append((output.detach(), gradients))
    (plain, own), (again, recomputed) = found
    assert torch.equal(plain, again) and len(own) == len(recomputed) > 0
    assert all(torch.equal(a, b) for a, b in zip(own, recomputed, strict=True))
    masked = states(loaded(folder, lora=lora), drawn(512, (5, 3, 7)), pack=True)
    torch.testing.assert_close(plain.float(), masked.detach().float(), rtol=0.05, atol=0.05)
