"""The files of an exported student: a Hugging Face folder that transformers and vLLM load, and the adapter beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.student.adapters import AdapterSettings, adapter_config

ADAPTER = "adapter"
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFiles:
    """What an exported folder must contain about prompts and responses: the ids that end a response, the first of them also as a
    token, and the chat template of the run (None: the source's own)."""

    end_ids: tuple[int, ...]
    end_token: str
    chat_template: str | None = None


def write_checkpoint(
    folder: Path,
    weights: dict[str, torch.Tensor],
    *,
    source: Path,
    dtype: str,
    prompt: PromptFiles | None = None,
) -> None:
    """Write weights (safetensors), config and tokenizer to `folder` so that transformers and vLLM can load it. Config,
    tokenizer and generation settings are copied from the `source` folder; `dtype` and `prompt` replace what they contain."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(weights, folder, metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=2), encoding="utf-8")
    for name in _COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if prompt is not None:
        _write_prompt_files(folder, prompt)


def write_adapter(
    folder: Path, weights: dict[str, torch.Tensor], lora: AdapterSettings, *, source: Path
) -> None:
    """Write an adapter's weights (names as in peft) to the subfolder `adapter` of `folder`, in the format of peft."""
    from safetensors.torch import save_file

    target = folder / ADAPTER
    target.mkdir()
    adapter_config(lora, base=source.name).save_pretrained(str(target))
    save_file(weights, target / "adapter_model.safetensors", metadata={"format": "pt"})


def _write_prompt_files(folder: Path, prompt: PromptFiles) -> None:
    """Set the end tokens and the chat template. A file that has them already is left as it is."""
    first, ids = prompt.end_ids[0], list(prompt.end_ids)
    _edit(folder / "config.json", lambda config: config | {"eos_token_id": first})
    _edit(folder / "generation_config.json", lambda generation: _with_ends(generation, ids))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            _edit(folder / name, lambda settings: _with_end_token(settings, prompt.end_token))
    if prompt.chat_template is not None:
        (folder / "chat_template.jinja").write_text(prompt.chat_template, encoding="utf-8")
        _edit(folder / "tokenizer_config.json", _without_template)


def _edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Apply a change to a JSON file, which is created if it does not exist."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if (changed := change(found)) != found:
        path.write_text(json.dumps(changed, indent=2, ensure_ascii=False), encoding="utf-8")


def _with_ends(generation: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    listed = generation.get("eos_token_id")
    if set(listed if isinstance(listed, list) else [listed]) == set(ids):
        return dict(generation)
    return dict(generation) | {"eos_token_id": list(ids) if len(ids) > 1 else ids[0]}


def _with_end_token(settings: Mapping[str, Any], token: str) -> dict[str, Any]:
    found = settings.get("eos_token")
    written = found.get("content") if isinstance(found, dict) else found
    return dict(settings) if written == token else dict(settings) | {"eos_token": token}


def _without_template(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "chat_template"}
