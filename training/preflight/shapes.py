"""Model dimensions of a decoder, read from its config.json, and the tensors and parameter counts derived from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from training.config import LoraSettings, Projection
from training.data.architectures import ARCHITECTURES, Architecture, refusal

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The experts of every layer of a mixture-of-experts model: their number, how many a token passes through, and the
    intermediate size of one."""

    count: int
    per_token: int
    intermediate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDimensions:
    """Dimensions of a decoder. `kind`: its model type, one of `ARCHITECTURES`. `intermediate` is that of a dense MLP; with
    `experts` no layer has one. `attention_bias` and `mlp_bias` as in config.json, which not every architecture follows."""

    kind: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    attention_bias: bool
    mlp_bias: bool = False
    experts: Experts | None = None

    @property
    def architecture(self) -> Architecture:
        """What the model type implies."""
        return ARCHITECTURES[self.kind]

    @property
    def query(self) -> int:
        """Total width of the query heads."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Total width of the key heads, which is also that of the value heads."""
        return self.kv_heads * self.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of all layers per token, two bytes per value."""
        return 2 * self.layers * self.key * 2

    @property
    def embedding(self) -> int:
        """Number of values of the embedding (and of the LM head), the largest tensors of every published model."""
        return self.vocab * self.hidden

    @property
    def linear_layer(self) -> int:
        """Number of values of the matrices of one layer, of all its experts if it has some."""
        return sum(prod(size) for _, size in layer_tensors(self) if len(size) == 2)

    @property
    def expert(self) -> int:
        """Number of values of one expert, 0 in a dense model."""
        return 0 if self.experts is None else 3 * self.hidden * self.experts.intermediate


def read_dimensions(folder: Path) -> ModelDimensions:
    """Read the dimensions from a checkpoint's config.json. Raises `UserError` for an invalid file or an unsupported model."""
    path = folder / "config.json"
    try:
        return model_dimensions(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path} is not a valid model configuration ({reason}): copy the complete checkpoint there"
        ) from error


def model_dimensions(values: Mapping[str, Any], where: str) -> ModelDimensions:
    """Return the dimensions in the content of a config.json, `where`. Raises `UserError` for an unsupported model, and the errors
    of a missing or wrong value."""
    if (refused := refusal(values)) is not None:
        raise UserError(f"{where}: {refused}")
    kind, heads = str(values["model_type"]), int(values["num_attention_heads"])
    return ModelDimensions(
        kind=kind,
        hidden=int(values["hidden_size"]),
        layers=int(values["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(values.get("num_key_value_heads") or heads),
        head_dim=int(values.get("head_dim") or int(values["hidden_size"]) // heads),
        intermediate=int(values["intermediate_size"]),
        vocab=int(values["vocab_size"]),
        tied=bool(values.get("tie_word_embeddings", False)),
        attention_bias=bool(values.get("attention_bias", False)),
        mlp_bias=bool(values.get("mlp_bias", False)),
        experts=_read_experts(where, values) if kind == "qwen3_moe" else None,
    )


def _read_experts(where: str, values: Mapping[str, Any]) -> Experts:
    if values.get("mlp_only_layers") or int(values.get("decoder_sparse_step", 1)) != 1:
        raise UserError(
            f"{where}: only some layers have experts (mlp_only_layers, decoder_sparse_step), which is not supported: use a"
            " checkpoint with experts in every layer"
        )
    name = (
        "num_local_experts" if "num_local_experts" in values else "num_experts"
    )  # transformers 5 renames it
    count, per_token = int(values[name]), int(values["num_experts_per_tok"])
    if not 1 <= per_token <= count:
        raise ValueError(f"num_experts_per_tok is {per_token} of {count} experts")
    return Experts(count=count, per_token=per_token, intermediate=int(values["moe_intermediate_size"]))


def model_tensors(dims: ModelDimensions) -> Iterator[tuple[str, Shape]]:
    """Yield the name and shape of every tensor of a model, as transformers saves them; tied embeddings once."""
    yield "model.embed_tokens.weight", (dims.vocab, dims.hidden)
    yield "model.norm.weight", (dims.hidden,)
    if not dims.tied:
        yield "lm_head.weight", (dims.vocab, dims.hidden)
    for layer in range(dims.layers):
        for name, size in layer_tensors(dims):
            yield f"model.layers.{layer}.{name}", size


def layer_tensors(dims: ModelDimensions) -> Iterator[tuple[str, Shape]]:
    """Yield the name and shape of every tensor of one layer."""
    traits, h, query, key = dims.architecture, dims.hidden, dims.query, dims.key
    for name in traits.norms:
        yield f"{name}.weight", (h,)
    biased = {"never": "", "qkv": "qkv", "declared": "qkvo" if dims.attention_bias else ""}[
        traits.attention_bias
    ]
    for name, size in {"q": (query, h), "k": (key, h), "v": (key, h), "o": (h, query)}.items():
        yield f"self_attn.{name}_proj.weight", size
        if name in biased:
            yield f"self_attn.{name}_proj.bias", size[:1]
    if traits.query_norm != "none":
        for name, width in {"q_norm": query, "k_norm": key}.items():
            yield f"self_attn.{name}.weight", (dims.head_dim if traits.query_norm == "head" else width,)
    yield from _mlp_tensors(dims)


def _mlp_tensors(dims: ModelDimensions) -> Iterator[tuple[str, Shape]]:
    """Yield the tensors of one layer's MLP or of its router and experts."""
    h, inner, folders = dims.hidden, dims.intermediate, ["mlp"]
    if dims.experts is not None:
        inner = dims.experts.intermediate
        folders = [f"mlp.experts.{number}" for number in range(dims.experts.count)]
        yield "mlp.gate.weight", (dims.experts.count, h)
    for folder in folders:
        for name, size in {"gate": (inner, h), "up": (inner, h), "down": (h, inner)}.items():
            yield f"{folder}.{name}_proj.weight", size
            if dims.architecture.mlp_bias and dims.mlp_bias:
                yield f"{folder}.{name}_proj.bias", size[:1]


def count_parameters(dims: ModelDimensions) -> int:
    """Return the number of parameters; tied embeddings count once."""
    layer = sum(prod(size) for _, size in layer_tensors(dims))
    return dims.layers * layer + dims.hidden + dims.embedding * (1 if dims.tied else 2)


def count_active(dims: ModelDimensions) -> int:
    """Return the number of parameters that one token uses, which decides the FLOPs: all but those of the other experts."""
    idle = 0 if dims.experts is None else dims.experts.count - dims.experts.per_token
    return count_parameters(dims) - dims.layers * idle * dims.expert


def count_lora(dims: ModelDimensions, lora: LoraSettings) -> int:
    """Return the number of LoRA parameters: rank x (in + out) for every target of every layer."""
    sizes = projections(dims)
    return dims.layers * sum(lora.rank * sum(sizes[target]) for target in lora.targets)


def largest_tensor(dims: ModelDimensions) -> int:
    """Return the number of values of the largest tensor."""
    return max(dims.embedding, *(a * b for a, b in projections(dims).values()))


def projections(dims: ModelDimensions) -> dict[Projection, tuple[int, int]]:
    """Return (in, out) of each linear projection of a layer with a dense MLP."""
    h, q, k, i = dims.hidden, dims.query, dims.key, dims.intermediate
    return {
        "q_proj": (h, q), "k_proj": (h, k), "v_proj": (h, k), "o_proj": (q, h),
        "gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h),
    }  # fmt: skip


def layer_activations(dims: ModelDimensions, number: int) -> int:
    """Return the bytes per token that autograd keeps for one layer with flash attention, at `number` bytes per value.

    A norm keeps its input in float32 and its normalised output; attention keeps its input, queries, keys and values (repeated for
    the query heads) and its output twice; the MLP keeps its input and four tensors of the intermediate size.
    """
    h, q, k, i = dims.hidden, dims.query, dims.key, dims.intermediate
    normed = 2 * h + (0 if dims.architecture.query_norm == "none" else q + k)
    return normed * (4 + number) + number * (2 * h + 5 * q + 4 * i)


def gigabytes(amount: int) -> str:
    """Format a number of bytes as '1.2 GB', in powers of ten."""
    return f"{amount / 1e9:,.1f} GB"
