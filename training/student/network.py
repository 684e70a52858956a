"""The student's network: a Hugging Face causal language model whose head passes its weight to a function instead of computing
logits. LoRA adapters are merged into the base weights whenever weights are sent or written."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from tasks.errors import UserError
from tasks.processes.imports import fast_imports
from training.data.architectures import ARCHITECTURES
from training.data.attention import AttentionChoice, choose_attention, implementation, separation
from training.data.batches import Batch
from training.student.adapters import (
    AdapterSettings,
    Gather,
    adapted_layers,
    adapter_parameters,
    add_lora,
    merged,
)

HeadWork = Callable[[torch.Tensor, torch.Tensor], Any]
"""A function of hidden states [T, H] and head weights [V, H] that returns a tensor or a tuple of tensors."""


class Head(torch.nn.Module):
    """The LM head. It is a separate module so that ZeRO-3 gathers its weight (often tied to the embedding) around the call."""

    def __init__(self, weight: torch.nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: torch.Tensor, work: HeadWork) -> Any:
        """Return what `work` computes from hidden states [T, H] and the head's weight [V, H]."""
        return work(hidden, self.weight)


class Network(torch.nn.Module):
    """The base model, followed by the head at the positions that predict response tokens. Its attention is either one that joins
    sequences, for batches with `bounds`, or sdpa, for all others."""

    def __init__(self, model: Any, attention: AttentionChoice) -> None:
        super().__init__()
        self.model = model
        self.attention = attention

    def forward(self, batch: Batch, work: HeadWork) -> Any:
        """Return what `work` computes at the predicting positions of the batch."""
        states = self.model.base_model(
            input_ids=batch.ids,
            attention_mask=_masks(batch, self.model.config),
            use_cache=False,
            **separation(batch),
        ).last_hidden_state
        return self.model.lm_head(states.flatten(0, 1)[batch.predicting], work)


def _masks(batch: Batch, config: Any) -> Any:
    """Return the batch's mask, that of the sliding window, or one for each type of layer, as the architecture needs: transformers
    takes a mask of four dimensions as it is."""
    applies = ARCHITECTURES[config.model_type].window
    if batch.mask is None or applies == "none" or config.sliding_window is None:
        return batch.mask
    windowed = batch.window_mask(config.sliding_window)
    return windowed if applies == "every" else {"full_attention": batch.mask, "sliding_attention": windowed}


def load_network(
    folder: Path,
    *,
    dtype: torch.dtype,
    checkpointing: bool,
    lora: AdapterSettings | None,
    seed: int,
    dropout: bool = False,
    capability: tuple[int, int] | None = None,
) -> Network:
    """Load the model of a Hugging Face folder for training.

    `checkpointing` enables gradient checkpointing; `seed` initialises the adapters; `dropout` keeps the dropout of config.json;
    `capability` is the compute capability of the GPU, None on CPU. Raises `UserError` if the folder has no config.json or the
    model has no bias-free `lm_head`.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"student folder {folder} has no config.json: set it to a complete Hugging Face checkpoint"
        )
    model, attention = _load_model(folder, dtype, dropout=dropout, capability=capability)
    head = getattr(model, "lm_head", None)
    if head is None or getattr(head, "bias", None) is not None:
        raise UserError(
            f"the model in {folder} has no LM head named lm_head without a bias, which is required: choose another student"
        )
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if lora is not None:
        add_lora(model, lora, seed)
    model.lm_head = Head(head.weight)
    return Network(model.train(), attention)


def _load_model(
    folder: Path, dtype: torch.dtype, *, dropout: bool, capability: tuple[int, int] | None
) -> tuple[Any, AttentionChoice]:
    with fast_imports():
        from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not dropout:
        config.attention_dropout = 0.0
    attention = _choose(config, dtype, capability)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation=implementation(attention),
        trust_remote_code=False,
    )
    return model, attention


def _choose(config: Any, dtype: torch.dtype, capability: tuple[int, int] | None) -> AttentionChoice:
    return choose_attention(
        capability=capability,
        dtype=str(dtype).removeprefix("torch."),
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        dropout=config.attention_dropout,
    )


def read_head(folder: Path, rows: int) -> torch.Tensor:
    """Return the first `rows` rows of the LM head [V, H] of a Hugging Face folder in bf16: the file's own head if it has one, as
    in transformers, or the embedding if they are tied.

    Raises `UserError` if they cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    tied = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("tie_word_embeddings", False)
    index = folder / "model.safetensors.index.json"
    file, name = "model.safetensors", "lm_head.weight"
    try:
        if index.is_file():
            files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            name = _head_name(files, tied=tied)
            file = files.get(name, file)
        with safe_open(folder / file, framework="pt") as weights:
            name = name if index.is_file() else _head_name(weights.keys(), tied=tied)
            return weights.get_slice(name)[:rows].to(torch.bfloat16)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the teacher's head {name} cannot be read from {folder / file} ({error}): choose another teacher, or a top_k that"
            " is a number"
        ) from error


def _head_name(names: Collection[str], *, tied: bool) -> str:
    return "model.embed_tokens.weight" if tied and "lm_head.weight" not in names else "lm_head.weight"


def named_weights(model: Any, gather: Gather) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, full tensor) as in a transformers or vLLM checkpoint: adapters merged, tied tensors once.

    A yielded tensor is only valid until the next one is requested.
    """
    seen: set[int] = set()
    for name, sources in _outputs(model):
        if id(sources[0]) in seen:
            continue
        seen.add(id(sources[0]))
        with gather(sources), torch.no_grad():
            layer = model.get_submodule(name.rpartition(".")[0])
            yield name, merged(layer) if len(sources) > 1 else sources[0].detach()


def weight_metadata(model: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Return the names and full shapes of the tensors of `named_weights`, in the same order, without gathering parameters."""
    seen: set[int] = set()
    found = []
    for name, sources in _outputs(model):
        if id(sources[0]) not in seen:
            seen.add(id(sources[0]))
            found.append((name, tuple(getattr(sources[0], "ds_shape", sources[0].shape))))
    return found


def _outputs(model: Any) -> Iterator[tuple[str, list[torch.nn.Parameter]]]:
    """Yield (name, [parameter]) for a plain weight and (name, [base, A, B]) for a weight with an adapter."""
    adapted = [name for name, _ in adapted_layers(model)]
    for name, module in model.named_modules(remove_duplicate=False):
        if name in adapted:
            layer = module.base_layer
            if getattr(layer, "bias", None) is not None:
                yield f"{name}.bias", [layer.bias]
            yield f"{name}.weight", [layer.weight, *adapter_parameters(module)]
        elif not any(name.startswith(f"{parent}.") for parent in adapted):
            for leaf, parameter in module.named_parameters(recurse=False):
                yield f"{name}.{leaf}" if name else leaf, [parameter]
