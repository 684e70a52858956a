"""The tokenizer of a checkpoint, for the dataset and for training: the one that users of transformers and vLLM get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SAMPLE = "Solve 1 plus 2\nand box the answer."
_QWEN, _PLAIN = "Qwen2Tokenizer", "TokenizersBackend"
# What `AutoTokenizer` chooses by (model_type, tokenizer_class). It imports torch, which takes 2.7 s of CPU time; these classes
# do not need it.
_WITHOUT_TORCH = {
    **{(model, kind): _QWEN for model in ("qwen2", "qwen3", "qwen3_moe") for kind in (_QWEN, f"{_QWEN}Fast")},
    **{
        (model, kind): _PLAIN
        for model in ("qwen3", "qwen3_moe")
        for kind in (_PLAIN, "PreTrainedTokenizerFast")
    },
}


def load_tokenizer(model: str, revision: str | None = None) -> Any:
    """Return the tokenizer that `AutoTokenizer` gives for a folder or a hub id, without remote code.

    Raises whatever transformers raises if it cannot be loaded.
    """
    import transformers

    kind = _WITHOUT_TORCH.get(_declared(Path(model)), "AutoTokenizer")
    return getattr(transformers, kind).from_pretrained(model, revision=revision, trust_remote_code=False)


def tokenizer_problem(tokenizer: Any, model: str) -> str | None:
    """Return what is wrong with the tokenizer of `model` if it loses spaces or line breaks, or None.

    A class that does not belong to tokenizer.json does, such as LlamaTokenizer with the byte-level tokenizer.json of Llama 3.
    """
    found = tokenizer.decode(tokenizer.encode(SAMPLE, add_special_tokens=False), skip_special_tokens=False)
    if found.split() == SAMPLE.split() and found.count("\n") == SAMPLE.count("\n"):
        return None
    return (
        f"the tokenizer of {model} loses white space, since {type(tokenizer).__name__} does not fit its tokenizer.json: set"
        " tokenizer_class to PreTrainedTokenizerFast in its tokenizer_config.json"
    )


def _declared(folder: Path) -> tuple[str, str]:
    """Return the model type and the tokenizer class that a folder's files name; empty strings if that is not all they name."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        if "auto_map" in settings or "_name_or_path" in config:
            return "", ""
        return str(config["model_type"]), str(settings["tokenizer_class"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "", ""
