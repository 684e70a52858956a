"""Tiny decoders with random weights, one of each architecture, with tokenizers and chat templates like those of the published
models: real engines run on them without a download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny_model import CHAT_TEMPLATE, train_tokenizer

ROWS = 512
"""Rows of the embedding, of which the tokenizer uses most."""
LLAMA3 = """\
{{- '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + strftime_now('%d %b %Y') + '\\n\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- endif %}{{- '<|eot_id|>' }}
{%- for message in messages if message.role != 'system' %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
DEEPSEEK = """\
{{- '<｜begin▁of▁sentence｜>' }}{%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- endif %}
{%- for message in messages if message.role != 'system' %}
{{- ('<｜User｜>' if message.role == 'user' else '<｜Assistant｜>') + message.content }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{%- endif %}
"""
MISTRAL = """\
{{- '<s>' }}{%- for message in messages %}
{{- '[INST] ' + message.content + ' [/INST]' if message.role != 'assistant' else message.content + '</s>' }}
{%- endfor %}
"""
PLAIN = """\
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
OLMO = PLAIN.replace("assistant\\n", "assistant\\n<think>")


@dataclass(frozen=True, kw_only=True)
class TinyDecoder:
    """An architecture (`model_type` and settings of its config.json), the special tokens of its tokenizer (padding, beginning and
    end first) and its chat template."""

    model_type: str
    special: tuple[str, ...]
    template: str
    config: Mapping[str, Any] = field(default_factory=dict)


ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.2}
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DECODERS: Mapping[str, TinyDecoder] = {
    "qwen3": TinyDecoder(model_type="qwen3", special=CHATML, template=CHAT_TEMPLATE, config={"tie_word_embeddings": True}),
    "qwen2": TinyDecoder(model_type="qwen2", special=CHATML, template=PLAIN, config={"tie_word_embeddings": True}),
    "llama": TinyDecoder(
        model_type="llama",
        special=("<|finetune_right_pad_id|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        template=LLAMA3,
        config={
            "tie_word_embeddings": True,
            "rope_parameters": ROPE | {"rope_theta": 500_000.0, "original_max_position_embeddings": 64},
        },
    ),
    "deepseek": TinyDecoder(
        model_type="llama",
        special=("<|end_of_text|>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        template=DEEPSEEK,
    ),
    "olmo3": TinyDecoder(
        model_type="olmo3",
        special=CHATML,
        template=OLMO,
        config={
            "num_hidden_layers": 4,  # the last one has no window
            "sliding_window": 24,
            "rope_parameters": {
                "full_attention": YARN | {"rope_theta": 500_000.0, "original_max_position_embeddings": 64},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500_000.0},
            },
        },
    ),
    "mistral": TinyDecoder(
        model_type="mistral",
        special=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        template=MISTRAL,
        config={"sliding_window": 24},
    ),
}  # fmt: skip


def write_tiny_decoder(folder: Path, name: str, *, seed: int = 0, rows: int = ROWS) -> Path:
    """Write config, tokenizer and bf16 weights of a decoder with some 500,000 parameters into `folder`; return the folder.

    Decoders of the same `name` have the same tokenizer and template. `rows`: of the embedding.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = write_tiny_tokenizer(folder, name)
    ids = {f"{one}_token_id": getattr(tokenizer, f"{one}_token_id") for one in ("pad", "bos", "eos")}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(DECODERS[name], vocab_size=rows, **ids))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_tiny_tokenizer(folder: Path, name: str) -> Any:
    """Write the tokenizer of a decoder with its chat template into `folder`; return it."""
    kind = DECODERS[name]
    pad, beginning, end = kind.special[:3] if kind.special != CHATML else (CHATML[0], None, CHATML[2])
    tokenizer = train_tokenizer(
        kind.special, chat_template=kind.template, pad_token=pad, bos_token=beginning, eos_token=end
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tiny_config(kind: TinyDecoder, **changes: Any) -> Any:
    """Return the configuration of a tiny decoder for transformers."""
    from transformers import AutoConfig

    sizes = {
        "vocab_size": ROWS,
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
    }
    return AutoConfig.for_model(kind.model_type, **{**sizes, **kind.config, **changes})
