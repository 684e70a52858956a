"""API keys and tokens: read from the environment in one place, and kept from the processes that need none."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from tasks.errors import UserError

HUB_TOKEN: Final = "HF_TOKEN"
_SECRET_WORDS: Final = frozenset(
    "APIKEY AUTH AUTHORIZATION CONNECTION COOKIE CREDENTIAL CREDENTIALS HEADERS KEY KEYS PASSPHRASE PASSWD PASSWORD SECRET"
    " SECRETS TOKEN".split()
)
"""CONNECTION: the addresses of databases, with their passwords."""
_SHORTEST_MASKED: Final = 8
_SHORTEST_UNUSUAL: Final = 16
_hidden: dict[str, str] = {}  # variables that `without_keys` has removed from os.environ for the moment
_hiding = threading.Lock()


def is_secret(variable: str) -> bool:
    """Whether an environment variable is a key by its name: a word of it is KEY, TOKEN, SECRET, PASSWORD or the like.

    Ray's own variables are not included, since its processes need them.
    """
    return not variable.startswith("RAY_") and not _SECRET_WORDS.isdisjoint(variable.upper().split("_"))


def read_key(variable: str) -> str:
    """Return the key in an environment variable, without the blanks and line ends around it; empty if there is none.

    Raises `UserError`, which does not quote the key, unless it is printable ASCII without blanks: an HTTP library would quote
    it in an error.
    """
    return checked_key(os.environ.get(variable) or _hidden.get(variable, ""), variable)


def checked_key(value: str, where: str) -> str:
    """Return a key from `where` without the blanks and line ends around it. Raises `UserError` as `read_key` does."""
    key = value.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            f"the key in {where} has a blank or a character that is not printable ASCII: set {where} again"
        )
    return key


def secret_values() -> tuple[str, ...]:
    """Return the keys in this process's environment that no ordinary text contains: ASCII, and of sixteen characters or more."""
    values = (value.strip() for name, value in os.environ.items() if is_secret(name))
    return tuple(value for value in values if len(value) >= _SHORTEST_UNUSUAL and value.isascii())


def masked(text: str, key: str) -> str:
    """Return a text from elsewhere without the key. Keys of less than eight characters are words like EMPTY."""
    return text.replace(key, "[key]") if len(key) >= _SHORTEST_MASKED else text


def quotes(text: bytes, key: str) -> bool:
    """Whether a text from elsewhere has the key in it, by the rule of `masked`."""
    return len(key) >= _SHORTEST_MASKED and key.encode("ascii") in text


def environment_without_keys() -> dict[str, str]:
    """Return the environment of this process without the variables that `is_secret` names, for a process that needs none."""
    return {name: value for name, value in os.environ.items() if not is_secret(name)}


@contextmanager
def without_keys() -> Iterator[None]:
    """Remove all keys from this process's environment inside the block, for libraries that start processes with that
    environment. `read_key` still finds them, from any thread."""
    with _hiding:
        _hidden.update({name: os.environ[name] for name in list(os.environ) if is_secret(name)})
        try:
            for name in _hidden:
                del os.environ[name]
            yield
        finally:
            os.environ.update({name: value for name, value in _hidden.items() if name not in os.environ})
            _hidden.clear()


def refuse_credentials(url: str | None, setting: str) -> str | None:
    """Return an address unchanged. Raises `ValueError`, which does not quote it, if it has a user, a password or a query, since
    addresses are logged and stored."""
    parts = urlsplit(url or "")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"{setting} has a user name, a password or a query: write the address alone, since it is logged and stored, and put"
            " the key into an environment variable"
        )
    return url


def shown(url: str) -> str:
    """Return an address for a message, without user, password, query and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
