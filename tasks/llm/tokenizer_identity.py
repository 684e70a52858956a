"""Hashes of the teacher's tokenizer and chat template, which a training run must match."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.llm.model_folder import model_folder
from tasks.llm.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerIdentity:
    """Hashes of the tokenizer's rules and of the chat template: the first 16 hex digits of their SHA-256."""

    tokenizer: str
    chat_template: str


def tokenizer_identity(
    model: str, revision: str | None, root: Path, chat_template: str | None = None
) -> TokenizerIdentity:
    """Compute the hashes of a tokenizer as loaded by `transformers` (no remote code), from a local folder or the hub, with the
    given chat template or its own.

    Raises `UserError` if the tokenizer cannot be loaded.
    """
    folder = model_folder(model, root)
    try:
        tokenizer = load_tokenizer(str(folder or model), revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the tokenizer of {model} cannot be loaded ({error}): correct `model` in the profile"
        ) from error
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return loaded_identity(tokenizer)


def loaded_identity(tokenizer: Any) -> TokenizerIdentity:
    """Compute the hashes of a loaded tokenizer."""
    return TokenizerIdentity(
        tokenizer=_short_hash(tokenizer.backend_tokenizer.to_str()),
        chat_template=template_identity(tokenizer),
    )


def template_identity(tokenizer: Any) -> str:
    """Return the hash of the chat template of a loaded tokenizer."""
    return _short_hash(str(tokenizer.chat_template))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
