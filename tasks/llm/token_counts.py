"""Count tokens with a model's tokenizer, without loading the model or downloading anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.errors import UserError
from tasks.llm.model_folder import model_folder

Counter = Callable[[Sequence[str]], list[int]]


def token_counter(model: str, revision: str | None, root: Path) -> Counter | None:
    """Return a function from texts to their token counts, or None if the model's `tokenizer.json` is neither in its folder
    nor in the local cache of the hub. Raises `UserError` if the model's folder does not exist or the file is damaged."""
    from tokenizers import Tokenizer

    path = _tokenizer_file(model, revision, root)
    if path is None:
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(
            f"{path} is not a readable tokenizer ({error}): put the complete checkpoint there"
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
