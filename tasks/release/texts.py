"""Search texts that leave this machine for keys and for paths of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from tasks.errors import UserError

_MARKS: Final = ("hf_", "sk-", "gh", "github_pat_", "AKIA", "xox", "AIza", "PRIVATE KEY")
"""Every secret that `_SECRETS` finds has one of these: the search for them is much faster."""
_SECRETS: Final = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[\w-]{35}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_PATHS: Final = re.compile(
    r"/(?<![\w.~$}/:-]/)(?:home|root|Users|tmp|var|mnt|opt|srv|work|workspace|scratch|data[0-9]*)/[\w.-]+[\w./-]*"
    r"|:\\\\?Users\\"
)
_TEXTS: Final = frozenset({".cff", ".jinja", ".json", ".jsonl", ".md", ".txt", ""})


def findings(text: str, keys: Sequence[str]) -> Iterator[str]:
    """Describe what must not leave this machine. `keys` are values to look for, which are not quoted."""
    if any(mark in text for mark in _MARKS) and _SECRETS.search(text):
        yield "what looks like an access key"
    if any(key in text for key in keys):
        yield "a key of this environment"
    if found := _PATHS.search(text):
        yield f"the machine's path {found[0][:60]}"


def text_of(row: Any) -> str:
    """Return all texts of a row, also those in lists, as lines."""
    values = (getattr(row, field.name) for field in fields(row))
    parts = (value if isinstance(value, tuple) else (value,) for value in values)
    return "\n".join(one for part in parts for one in part if isinstance(one, str))


def refuse_exposed(folder: Path, keys: Sequence[str]) -> None:
    """Raise `UserError` if a text file of a release folder has a key or a path of this machine. Tokenizers are not read."""
    wrong = [
        f"{path.relative_to(folder)} has {what}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in _TEXTS and path.name != "tokenizer.json"
        for what in findings(path.read_text(encoding="utf-8", errors="replace"), keys)
    ]
    if wrong:
        raise UserError(f"{'; '.join(wrong)}: not released, remove it and release again")
