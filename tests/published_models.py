"""The config.json of published models, as far as dimensions, memory and checks read them: tests need no checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.tiny_decoders import write_tiny_tokenizer
from training.preflight.shapes import model_dimensions, model_tensors


def qwen3(
    hidden: int, layers: int, heads: int, intermediate: int, *, tied: bool, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": intermediate,
        "vocab_size": 151_936, "tie_word_embeddings": tied, "attention_bias": False, "max_position_embeddings": 40_960,
        "rope_scaling": None, "rope_theta": 1_000_000, "use_sliding_window": False, **more,
    }  # fmt: skip


def qwen25(
    hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": intermediate,
        "max_position_embeddings": 32_768, "rope_theta": 1_000_000, **more,
    }  # fmt: skip


def llama3(
    hidden: int, layers: int, heads: int, intermediate: int, *, tied: bool, factor: float
) -> dict[str, Any]:
    return {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": intermediate,
        "vocab_size": 128_256, "tie_word_embeddings": tied, "attention_bias": False, "mlp_bias": False,
        "max_position_embeddings": 131_072, "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }  # fmt: skip


OLMO3 = {
    "model_type": "olmo3", "architectures": ["Olmo3ForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 11_008, "vocab_size": 100_278,
    "tie_word_embeddings": False, "attention_bias": False, "max_position_embeddings": 65_536, "sliding_window": 4096,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 8, "rope_theta": 500_000,
    "rope_scaling": {
        "rope_type": "yarn", "factor": 8.0, "attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
EXPERTS = {
    "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_key_value_heads": 4, "num_experts": 128,
    "num_experts_per_tok": 8, "moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "Qwen3-0.6B-Base": qwen3(1024, 28, 16, 3072, tied=True, max_position_embeddings=32_768),
    "Qwen3-1.7B": qwen3(2048, 28, 16, 6144, tied=True),
    "Qwen3-1.7B-Base": qwen3(2048, 28, 16, 6144, tied=True, max_position_embeddings=32_768),
    "Qwen3-4B": qwen3(2560, 36, 32, 9728, tied=True),
    "Qwen3-4B-Base": qwen3(2560, 36, 32, 9728, tied=True, max_position_embeddings=32_768),
    "Qwen3-8B": qwen3(4096, 36, 32, 12_288, tied=False),
    "Qwen3-30B-A3B": qwen3(2048, 48, 32, 6144, tied=False) | EXPERTS,
    "Qwen2.5-3B-Instruct": qwen25(2048, 36, 16, 2, 11_008, vocab_size=151_936, tie_word_embeddings=True),
    "Qwen2.5-72B-Instruct": qwen25(8192, 80, 64, 8, 29_568, vocab_size=152_064, tie_word_embeddings=False),
    "Llama-3.2-3B-Instruct": llama3(3072, 28, 24, 8192, tied=True, factor=32.0),
    "Llama-3.1-8B-Instruct": llama3(4096, 32, 32, 14_336, tied=False, factor=8.0),
    "DeepSeek-R1-Distill-Llama-8B": llama3(4096, 32, 32, 14_336, tied=False, factor=8.0),
    "Olmo-3-7B-Think": OLMO3,
}


def write_stand_in(folder: Path, name: str, decoder: str) -> Path:
    """Write what a check reads of the published model `name`: its config.json, weights of the right shapes without content (a
    sparse file), and tokenizer and chat template of a tiny decoder. Returns the folder."""
    if folder.is_dir():
        return folder
    write_tiny_tokenizer(folder, decoder)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
    header, size = {}, 0
    for tensor, shape in model_tensors(model_dimensions(CONFIGS[name], name)):
        end = size + 2 * math.prod(shape)
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [size, end]}
        size = end
    written = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        file.truncate(8 + len(written) + size)
    return folder
