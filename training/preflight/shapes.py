"""Model dimensions of a dense Qwen2 or Qwen3 decoder, read from its config.json, and the parameter counts derived from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.errors import UserError
from training.config import LoraSettings, Projection


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDimensions:
    """Dimensions of a dense Qwen2 or Qwen3 decoder."""

    kind: Literal["qwen2", "qwen3"]
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    attention_bias: bool

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
        """Number of values of the linear projections of one layer."""
        return sum(a * b for a, b in projections(self).values())


def read_dimensions(folder: Path) -> ModelDimensions:
    """Read the dimensions from a checkpoint's config.json. Raises `UserError` for an invalid file or unsupported architecture."""
    path = folder / "config.json"
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = values.get("model_type")
        if kind not in ("qwen2", "qwen3"):
            raise UserError(
                f"{path}: model_type {kind!r} is not supported: use a dense qwen2 or qwen3 checkpoint"
            )
        heads = int(values["num_attention_heads"])
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
        )
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path} is not a valid model configuration ({reason}): copy the complete checkpoint there"
        ) from error


def count_parameters(dims: ModelDimensions) -> int:
    """Return the number of parameters; tied embeddings count once."""
    h, q, k = dims.hidden, dims.query, dims.key
    layer = dims.linear_layer + 2 * h
    if dims.kind == "qwen3":
        layer += 2 * dims.head_dim  # the norms of queries and keys
        layer += (q + 2 * k + h) if dims.attention_bias else 0
    else:
        layer += q + 2 * k  # Qwen2 always has biases on these three, regardless of its config.json
    return dims.layers * layer + h + dims.embedding * (1 if dims.tied else 2)


def count_lora(dims: ModelDimensions, lora: LoraSettings) -> int:
    """Return the number of LoRA parameters: rank x (in + out) for every target of every layer."""
    sizes = projections(dims)
    return dims.layers * sum(lora.rank * sum(sizes[target]) for target in lora.targets)


def largest_tensor(dims: ModelDimensions) -> int:
    """Return the number of values of the largest tensor."""
    return max(dims.embedding, *(a * b for a, b in projections(dims).values()))


def projections(dims: ModelDimensions) -> dict[Projection, tuple[int, int]]:
    """Return (in, out) of each linear projection of a layer."""
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
    normed = 2 * h + (q + k if dims.kind == "qwen3" else 0)
    return normed * (4 + number) + number * (2 * h + 5 * q + 4 * i)


def gigabytes(amount: int) -> str:
    """Format a number of bytes as '1.2 GB', in powers of ten."""
    return f"{amount / 1e9:,.1f} GB"
