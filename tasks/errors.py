"""The exception for errors that the user can fix, and a way to collect several of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tasks.text import visible

T = TypeVar("T")


class UserError(Exception):
    """Invalid input or setting. The message is one sentence: what, where (file, line, row id), what to do.

    Controls in quoted texts are made visible, since the message goes to terminals, logs and the Prefect UI.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


def attempt(problems: list[str], call: Callable[[], T]) -> T | None:
    """Return the result of `call`; on a `UserError` append its lines to `problems` and return None."""
    try:
        return call()
    except UserError as error:
        problems += str(error).splitlines()
        return None
