"""The student's network for every architecture: packed rows give the logits of transformers, and weights keep their names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_decoders import DECODERS, write_tiny_decoder
from tests.training.data.test_attention import plain_varlen
from tests.training.small_run import edit
from tests.training.student.running import sequences
from training.data.attention import ON_CPU, AttentionChoice, implementation
from training.data.batches import join_sequences, make_batch
from training.student.adapters import AdapterSettings
from training.student.network import Network, load_network, named_weights, read_head

CPU = torch.device("cpu")
WINDOW = 24  # of the decoders that have one; the sequences are longer


@contextlib.contextmanager
def whole(_: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    yield


@pytest.fixture(scope="module", params=DECODERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_decoder(tmp_path_factory.mktemp("student") / request.param, request.param)


def loaded(folder: Path, lora: AdapterSettings | None = None) -> Network:
    return load_network(folder, dtype=torch.float32, checkpointing=False, lora=lora, seed=3)


def plain_logits(folder: Path, chosen: Sequence[Any]) -> torch.Tensor:
    """Return transformers' logits [T, V] that predict the responses, one sequence at a time, with eager attention."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        found = [
            model(torch.from_numpy(one.tokens).long()[None]).logits[0, one.prompt_length - 1 : -1]
            for one in chosen
        ]
    return torch.cat(found)


def test_a_window_that_an_architecture_ignores_is_ignored(tmp_path: Path) -> None:
    folder, chosen = write_tiny_decoder(tmp_path / "llama", "llama"), sequences(5)
    expected = plain_logits(folder, chosen)
    edit(folder / "config.json", lambda data: data.update(sliding_window=4))
    network = loaded(folder)
    packed = network.attention.rows(chosen, CPU, pack=True, budget=400)
    found = network(packed, lambda hidden, weight: hidden @ weight.T).detach()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_packed_rows_give_the_logits_of_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", plain_varlen)
    chosen = sequences(5)
    assert max(len(one.tokens) for one in chosen) > WINDOW
    expected, network = plain_logits(folder, chosen), loaded(folder)
    packed = make_batch(chosen, CPU, pack=True, budget=400)
    assert packed.mask is not None, "several sequences stand in one row"
    network.model.set_attn_implementation("sdpa")
    for batch in (make_batch(chosen, CPU, pack=False), packed):
        found = network(batch, lambda hidden, weight: hidden @ weight.T).detach()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    for attention in (AttentionChoice(kind="varlen", reason="test"), ON_CPU):
        network.model.set_attn_implementation(implementation(attention))
        joined = network(join_sequences(chosen, CPU), lambda hidden, weight: hidden @ weight.T).detach()
        torch.testing.assert_close(joined, expected, rtol=1e-3, atol=1e-3)


def test_weights_are_sent_under_the_names_of_the_checkpoint(folder: Path) -> None:
    saved = load_file(folder / "model.safetensors")
    for lora in (None, AdapterSettings(rank=2, alpha=4.0, targets=("q_proj", "gate_proj"))):
        sent = {name: value.clone() for name, value in named_weights(loaded(folder, lora).model, whole)}
        assert sent.keys() == saved.keys()
        assert all(torch.equal(sent[name], saved[name].float()) for name in saved), "B of a new adapter is 0"


def test_the_head_is_the_models_own(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert torch.equal(read_head(folder, 512), model.get_output_embeddings().weight)
