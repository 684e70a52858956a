r"""Gold answers in the cells of a data set: plain or boxed, behind `####`, at the end of a solution, or as a list."""

from __future__ import annotations

import re
from typing import Any

from tasks.answers.extraction import extract_answer

_INTEGER = re.compile(r"0+(?=\d)")


def written(value: Any) -> str:
    """Return a cell as text: None as "", numbers as `str` prints them, lone surrogates replaced."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8").strip()


def final_answer(value: Any) -> str | None:
    r"""Return the answer in an answer cell, or None if it is empty.

    The answer is the content of the last balanced `\boxed{...}`, or else the whole cell without enclosing dollar signs.
    A float with an integer value is written without `.0`.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = written(value)
    boxed = extract_answer(text)
    if boxed is not None:
        return boxed
    if text.startswith("$") and text.endswith("$") and text.count("$") == 2:
        text = text[1:-1].strip()
    return text or None


def after_hashes(value: Any) -> str | None:
    """Return the answer of a solution that ends in `#### answer`, without thousands separators, or None."""
    _, marker, last = written(value).rpartition("####")
    return final_answer(last.replace(",", "")) if marker else None


def whole_number(value: Any) -> str | None:
    """Return the answer in a cell, an integer without leading zeros: AIME answers are written with three digits."""
    answer = final_answer(value)
    return _INTEGER.sub("", answer, count=1) if answer is not None and answer.isdecimal() else answer


def listed_answers(value: Any) -> str | None:
    """Return the answers in a cell that holds a list or a single value, joined by commas; None if there are none."""
    cells = list(value) if isinstance(value, list | tuple) else [value]
    return ", ".join(filter(None, map(final_answer, cells))) or None
