"""Checkpoint folders of student and teacher: weight files, tokenizer, chat template, encoded prompts.

Reads files only; the tokenizer classes of transformers work without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from prompts import load_prompt
from tasks.errors import UserError
from tasks.llm.chat_template_check import template_problem
from tasks.llm.checkpoint_files import MAX_HEADER_BYTES, header_bytes
from tasks.llm.prompt_tokens import PromptEncoder, UnsafeText
from tasks.llm.tokenizer_identity import TokenizerIdentity, loaded_identity
from training.config import project_path

PROMPT = "teacher/solve"  # the student's prompt, which is also the one that the dataset was sampled with
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
QWEN_TOKENIZERS = ("Qwen2Tokenizer", "Qwen2TokenizerFast")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A complete checkpoint. `role` is the section of its setting (`<role>.model`), `vocab_size` the number of rows of the
    embedding (padded beyond the tokenizer's size), `tensors` the shape of every tensor in the weight files."""

    role: str
    folder: Path
    vocab_size: int
    max_positions: int
    tokenizer: Any  # PreTrainedTokenizerFast or Qwen2Tokenizer
    identity: TokenizerIdentity
    tensors: Mapping[str, tuple[int, ...]] = field(repr=False)


def open_model(role: str, model: str) -> ModelFiles:
    """Check the checkpoint folder of the setting `<role>.model` and load its tokenizer.

    Raises `UserError`, naming the setting and the folder, if the folder, config.json, a weights file or the tokenizer is missing,
    truncated or invalid.
    """
    folder = project_path(model)
    if not folder.is_dir():
        raise UserError(
            f"{role}.model: checkpoint folder {folder} does not exist: correct the path, or download the model to it"
        )
    config = _json(role, folder / "config.json")
    tensors: dict[str, tuple[int, ...]] = {}
    for name in _weight_files(role, folder):
        tensors |= _read_shapes(role, folder / name)
    try:
        sizes = int(config["vocab_size"]), int(config["max_position_embeddings"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{role}.model: {folder / 'config.json'} has no valid vocab_size and max_position_embeddings: copy the complete"
            " checkpoint there"
        ) from error
    if (wrong := template_problem(folder)) is not None:
        raise UserError(f"{role}.model: {wrong}")
    tokenizer = _tokenizer(role, folder)
    return ModelFiles(
        role=role, folder=folder, vocab_size=sizes[0], max_positions=sizes[1], tokenizer=tokenizer,
        tensors=tensors, identity=loaded_identity(tokenizer),
    )  # fmt: skip


def encode_prompts(model: ModelFiles, problems: Sequence[str], *, thinking: bool) -> list[tuple[int, ...]]:
    """Return the token ids of each problem in the solve prompt and the model's chat template, generation prompt included.

    The ids are those that the dataset's engines build. Raises `UserError` if the template fails or gives an empty prompt.
    """
    prompt, encoder = load_prompt(PROMPT), PromptEncoder(model.tokenizer, enable_thinking=thinking)
    try:
        found = [tuple(encoder.encode(prompt, {"problem": problem})) for problem in problems]
    except UnsafeText as error:
        raise UserError(
            f"{model.role}.model: a problem contains a token of the chat template of {model.folder} ({error}): leave that problem"
            " out of the dataset"
        ) from error
    except Exception as error:  # a template is a program and may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{model.role}.model: the chat template of {model.folder} fails ({type(error).__name__}: {reason}): fix it, or use"
            " a checkpoint whose template works"
        ) from error
    if not all(found):
        raise UserError(
            f"{model.role}.model: the chat template of {model.folder} gives an empty prompt for a problem: fix it, or use a"
            " checkpoint whose template works"
        )
    return found


def _json(role: str, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{role}.model: {path.parent} has no {path.name}: copy the complete checkpoint there"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{role}.model: {path} cannot be read ({error}): copy the complete checkpoint there"
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{role}.model: {path} is not a JSON object: copy the complete checkpoint there")
    return data


def _weight_files(role: str, folder: Path) -> list[str]:
    """Return the names of all weight files, from the index if there is one."""
    if (folder / INDEX).is_file():
        names = _json(role, folder / INDEX).get("weight_map")
        if isinstance(names, dict) and names and all(isinstance(name, str) for name in names.values()):
            return sorted(set(names.values()))
        raise UserError(
            f"{role}.model: {folder / INDEX} lists no weight files: copy the complete checkpoint there"
        )
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    raise UserError(
        f"{role}.model: {folder} has neither {WEIGHTS} nor {INDEX}: copy the complete checkpoint there"
    )


def _read_shapes(role: str, path: Path) -> dict[str, tuple[int, ...]]:
    """Return the tensor shapes of a safetensors file.

    Only its header is read. It gives the length of the file, so that a truncated copy is detected.
    """
    try:
        if MAX_HEADER_BYTES < (length := header_bytes(path)) <= path.stat().st_size:
            raise UserError(
                f"{role}.model: {path} has a header of {length:,} bytes, at most {MAX_HEADER_BYTES:,} are read: copy the complete"
                " checkpoint there"
            )
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except FileNotFoundError as error:
        raise UserError(f"{role}.model: {path} is missing: copy the complete checkpoint there") from error
    except (OSError, SafetensorError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise UserError(
            f"{role}.model: {path} is not a complete safetensors file ({reason}): download the weights again"
        ) from error


def _tokenizer(role: str, folder: Path) -> Any:
    """Load the tokenizer that `AutoTokenizer` gives for Qwen checkpoints; `AutoTokenizer` itself would import torch."""
    import transformers

    settings = _json(role, folder / "tokenizer_config.json")
    named = settings.get("tokenizer_class")
    kind: Any = getattr(transformers, named if named in QWEN_TOKENIZERS else "PreTrainedTokenizerFast")
    try:
        tokenizer = kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{role}.model: the tokenizer in {folder} cannot be loaded ({reason}): copy the complete checkpoint there"
        ) from error
    if not tokenizer.chat_template:
        raise UserError(f"{role}.model: {folder} has no chat template: use a checkpoint that has one")
    return tokenizer
