"""Counting tokens with a model's own tokenizer, without loading the model or downloading anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.core.errors import UserError
from tasks.io.servers import model_folder

Counter = Callable[[Sequence[str]], list[int]]


def token_counter(model: str, revision: str | None, root: Path) -> Counter | None:
    """A function from texts to their numbers of tokens; None when the model's `tokenizer.json` is neither in its folder
    nor in this machine's cache of the hub. `UserError` when the model's folder is not there, or the file is damaged."""
    from tokenizers import Tokenizer

    path = _tokenizer_file(model, revision, root)
    if path is None:
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(
            f"{path} is no readable tokenizer ({error}): put the whole checkpoint there"
        ) from error
    return lambda texts: [
        len(found.ids) for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ]


def _tokenizer_file(model: str, revision: str | None, root: Path) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    folder = model_folder(model, root)
    if folder is not None:
        path = folder / "tokenizer.json"
        return path if path.is_file() else None
    found = try_to_load_from_cache(model, "tokenizer.json", revision=revision)
    return Path(found) if isinstance(found, str) else None
