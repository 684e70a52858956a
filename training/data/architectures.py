"""The architectures of models that a run can use, and why another model is refused, by its config.json alone.

All are decoders of attention and a gated MLP with RMS norms, whose logits are hidden states times the head. A list is needed:
tensors do not show what a model computes with them. Granite has exactly those of Llama, and scales embeddings and logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

BEFORE: Final = ("input_layernorm", "post_attention_layernorm")
AFTER: Final = ("post_attention_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What a model type implies beyond its config.json.

    `norms`: names of the two norms of a layer, which are before or after attention and MLP. `query_norm`: the norms of queries
    and keys are over one head, or over all (`full`). `attention_bias`: on queries, keys and values whatever config.json says
    (`qkv`), on all four projections if it says so (`declared`), or never. `mlp_bias`: whether config.json can ask for one.
    `window`: the sliding window of config.json applies to no layer, to every one, or to those of its `layer_types`.
    """

    norms: tuple[str, str] = BEFORE
    query_norm: Literal["none", "head", "full"] = "none"
    attention_bias: Literal["never", "qkv", "declared"] = "declared"
    mlp_bias: bool = False
    window: Literal["none", "every", "typed"] = "none"


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "llama": Architecture(mlp_bias=True),
    "mistral": Architecture(attention_bias="never", window="every"),
    "olmo2": Architecture(norms=AFTER, query_norm="full"),
    "olmo3": Architecture(norms=AFTER, query_norm="full", window="typed"),
    "qwen2": Architecture(attention_bias="qkv", window="typed"),
    "qwen3": Architecture(query_norm="head", window="typed"),
    "qwen3_moe": Architecture(query_norm="head", window="every"),
}
"""By `model_type` of config.json. Models with the same type have the same architecture: those that DeepSeek distilled from R1 are
`llama` and `qwen2`."""
ROTARY: Final = ("default", "linear", "llama3", "yarn")
"""The scalings of rotary embeddings that do not depend on the lengths of a batch."""
_PARTS: Final = ("text_config", "vision_config", "audio_config")


def refusal(config: Mapping[str, Any]) -> str | None:
    """Return why a model with this config.json can be neither a student nor a teacher, with the remedy; None if it can."""
    kind, classes = config.get("model_type"), config.get("architectures")
    if config.get("is_encoder_decoder"):
        return f"the model (model_type {kind!r}) is an encoder-decoder: use a decoder-only model"
    if found := [name for name in _PARTS if config.get(name) is not None]:
        return f"the model (model_type {kind!r}) is multimodal, since it has {found[0]}: use a text model"
    if config.get("quantization_config") is not None:
        return "the weights are quantised (quantization_config): use the checkpoint in bfloat16 or float32"
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        return f"model_type {kind!r} is not supported: use one of {', '.join(ARCHITECTURES)}"
    if isinstance(classes, list) and classes and not str(classes[0]).endswith("ForCausalLM"):
        return f"the model is a {classes[0]}, which has no LM head: use a causal language model"
    if unknown := sorted(set(_rotary(config)) - {*ROTARY}):
        return (
            f"rotary embeddings of type {unknown[0]!r} depend on the other sequences of a batch or are unknown: use a"
            f" checkpoint with one of {', '.join(ROTARY)}"
        )
    return None


def _rotary(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the types of rotary embeddings, in the words of transformers 4 (`rope_scaling`) or 5 (`rope_parameters`, possibly one
    for each type of layer)."""
    for name in ("rope_scaling", "rope_parameters"):
        found = config.get(name)
        nested = (
            [one for one in found.values() if isinstance(one, Mapping)] if isinstance(found, Mapping) else []
        )
        for one in nested or [found]:
            if isinstance(one, Mapping):
                yield str(one.get("rope_type") or one.get("type") or "default")
