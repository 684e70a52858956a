"""The final answer of a response: the content of its last box."""

from __future__ import annotations

import re
from typing import Final

_BOX: Final = re.compile(r"\\boxed\s*\{")
_BRACES: Final = re.compile(r"\\.|[{}]", re.DOTALL)


def extract_answer(response: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` after the last `</think>`, stripped.

    Returns None if there is no box, if the box is empty or not closed (truncated response), or if a `<think>` is not
    closed. Of nested boxes the innermost is used. Linear time for any input.
    """
    span = answer_span(response)
    return None if span is None else response[slice(*span)]


def answer_span(response: str) -> tuple[int, int] | None:
    """Return the (start, end) character offsets of the answer that `extract_answer` returns; `end` is exclusive."""
    start = response.rfind("</think>") + 1
    if response.find("<think>", start) >= 0:
        return None
    begin = max((box.end() for box in _BOX.finditer(response, start)), default=None)
    if begin is None:
        return None
    depth = 1
    for match in _BRACES.finditer(response, begin):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            content = response[begin : match.start()]
            first = begin + len(content) - len(content.lstrip())
            return (first, first + len(content.strip())) if content.strip() else None
    return None
