"""The tokenizer of the pocket models: byte-level BPE like Qwen's, with one token per digit.

Every fixed sentence of the prompts of the training data (`pocket.data.PROMPTS`) is one added token, so a prompt of two
hundred words has about a dozen tokens. Other prompts and edited ones still work, but their sentences are split into
ordinary tokens, which the models have not seen in this position. After editing a prompt of the list, or adding one to it,
retrain the pocket models (`make pocket`).

The result is a standard `tokenizer.json` with `tokenizer_config.json` and a chat template, which `AutoTokenizer` can load.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

__all__ = [
    "END_OF_TURN",
    "PAD",
    "TOKENIZER_FILES",
    "VOCAB_SIZE",
    "build_tokenizer",
    "load_tokenizer",
    "save_tokenizer",
]

VOCAB_SIZE = 2048
"""Size of the vocabulary, including added tokens; equal to the number of rows of the models' embeddings."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""The files that `save_tokenizer` writes."""

PAD, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, START_OF_TURN, END_OF_TURN)
THINK_TOKENS = ("<think>", "</think>")

QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Pre-tokenizer of Qwen2 and Qwen3 (words with their leading space, single digits, runs of symbols), with one difference:
the first digit of a number includes its leading space, which makes pocket texts a fifth shorter."""

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
"""Qwen3's chat template without tools. As in the original, reasoning of earlier turns is removed."""


def build_tokenizer(
    corpus: Iterable[str], sentences: Sequence[str], vocab_size: int = VOCAB_SIZE
) -> Tokenizer:
    """Learn the merges from `corpus`; each of `sentences` becomes one added token.

    The vocabulary has exactly `vocab_size` entries. Raises ValueError if the corpus is too small for that.
    """
    added = [
        *(AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS),
        *(AddedToken(token, special=False, normalized=False) for token in (*THINK_TOKENS, *sentences)),
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(added),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens(added)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"the vocabulary has {tokenizer.get_vocab_size()} entries, not {vocab_size}; give more text"
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END_OF_TURN,
        "pad_token": PAD,
        "unk_token": None,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer in `folder`, with its chat template, for transformers."""
    return PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
