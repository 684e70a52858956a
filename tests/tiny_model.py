"""A Qwen3 model with random weights and a freshly trained tokenizer, so that real engines run without a download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = """\
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}
"""
CORPUS = [
    f"Solve {a} plus {b} and box the answer: \\boxed{{{a + b}}}. It is true, false or 'none'."
    for a in range(20)
    for b in range(20)
]


def write_tiny_model(folder: Path, *, uniform: bool = False) -> Path:
    """Write config, tokenizer and bf16 weights of a model with about 100,000 parameters into `folder`; return the folder.

    A `uniform` model assigns the same probability to each of its 512 tokens at every position.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = _tokenizer()
    config = Qwen3Config(**_sizes(tokenizer), tie_word_embeddings=True)
    return _write(folder, tokenizer, Qwen3ForCausalLM, config, uniform=uniform)


def write_tiny_experts(folder: Path) -> Path:
    """Like `write_tiny_model`, for a mixture of four experts of which two are used per token."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    tokenizer = _tokenizer()
    config = Qwen3MoeConfig(
        **_sizes(tokenizer),
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        norm_topk_prob=True,
    )
    return _write(folder, tokenizer, Qwen3MoeForCausalLM, config)


def _sizes(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "bos_token_id": None,
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "initializer_range": 0.15,
    }


def _write(folder: Path, tokenizer: Any, kind: Any, config: Any, *, uniform: bool = False) -> Path:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = kind(config).to(torch.bfloat16)
    if uniform:
        model.get_input_embeddings().weight.data.zero_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    return train_tokenizer(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def train_tokenizer(special: Sequence[str], **settings: Any) -> Any:
    """Return a byte-level BPE tokenizer of up to 512 tokens; `settings` are those of transformers' class."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)
