"""The final answer of a response: the content of its last box, or of several boxes that form a list."""

from __future__ import annotations

import re
from typing import Final

_BOX: Final = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*|<\|begin_of_box\|>")
_BRACES: Final = re.compile(r"\\.|[{}]", re.DOTALL)
_END: Final = "<|end_of_box|>"
_ARGUMENT: Final = re.compile(r"\\[dtc]?(?:frac|binom)|\\sqrt(?:\[[^\]]*\])?|\\[A-Za-z]+|\d|[A-Za-z]")
_GROUP: Final = re.compile(r"\s*(?:\{[^{}]*\}|\d|[A-Za-z]|\\[A-Za-z]+)")
_BETWEEN: Final = re.compile(
    r"(?:[\s,;$]|\\[,;:!]|\\\(|\\\)|\\\[|\\\]|\\quad|\\qquad|\\text(?:rm|bf)?\s*\{\s*(?:,|and|or)?\s*\}|\band\b|\bor\b|\\\\|&|和|或|、|，)*"
)
_APPROXIMATION: Final = re.compile(
    r"[\s$]*(?:\\\)|\\\])?\s*(?:\\approx|≈|\\simeq|\(?or approximately|\(?approximately)[\s$]*(?:\\\(|\\\[)?[\s$]*"
)
_BLANK: Final = re.compile(
    r"(?:\s|\\[,;:! ]|\\(?:text|mathrm)\s*\{\s*\}|\\quad|\\phantom\{[^{}]*\}|\\ldots|\\[lc]?dots|_+|\.\.\.)*"
)

Span = tuple[int, int]


def extract_answer(response: str) -> str | None:
    r"""Return the content of the last box after the last `</think>`, stripped.

    Boxes are `\boxed{...}`, `\boxed 7`, `\fbox`, `\framebox` and `<|begin_of_box|>`; an empty box at the end, and one with
    an approximation of the box before it, do not count. Boxes with nothing but commas, "and", "or" and line breaks between
    them are a list, which is returned with commas. None if there is no box, if the last one is not closed (truncated
    response), or if a `<think>` is not closed. Of nested boxes the innermost is used. Linear time for any input.
    """
    found = _final(response)
    return None if not found else ", ".join(response[start:end] for start, end in found)


def answer_span(response: str) -> Span | None:
    """Return the (start, end) character offsets of the answer; of a list, from its first box to its last; `end` exclusive."""
    found = _final(response)
    return None if not found else (found[0][0], found[-1][1])


def boxes(response: str) -> list[Span]:
    """Return the contents of all boxes after the thinking, in order, without empty ones; none if the last is truncated."""
    start = response.rfind("</think>") + 1
    if response.find("<think>", start) >= 0:
        return []
    opened = list(_BOX.finditer(response, start))
    spans = [_content(response, match) for match in _innermost(response, opened)]
    if not spans or spans[-1] is None:
        return []
    return [span for span in spans if span is not None and not _BLANK.fullmatch(response, *span)]


def _final(response: str) -> list[Span]:
    """Return the spans of the boxes that form the final answer."""
    found = boxes(response)
    if not found:
        return []
    while len(found) > 1 and _APPROXIMATION.fullmatch(_text_between(response, found[-2], found[-1])):
        found.pop()
    first = len(found) - 1
    while first > 0 and _is_list(_text_between(response, found[first - 1], found[first])):
        first -= 1
    if len({response[start:end] for start, end in found[first:]}) == 1:
        first = len(found) - 1  # the same box again is no list
    return found[first:]


def _is_list(between: str) -> bool:
    """Return whether a separator stands between two boxes, and nothing else."""
    return (
        _BETWEEN.fullmatch(between) is not None
        and re.search(r",|;|and|or|\n|\\\\|和|或|、|，", between) is not None
    )


def _text_between(response: str, first: Span, second: Span) -> str:
    """Return the text between two boxes, without the ends of the first and the command of the second."""
    text = response[first[1] : second[0]]
    if len(text) > 200:
        return "\0"
    text = text.removeprefix(_END) if text.startswith(_END) else text.lstrip().removeprefix("}")
    opening = list(_BOX.finditer(text))
    return text[: opening[-1].start()] if opening else "\0"


def _innermost(response: str, opened: list[re.Match[str]]) -> list[re.Match[str]]:
    """Drop boxes that directly enclose the next one, as in nested boxes."""
    kept = []
    for place, box in enumerate(opened):
        following = opened[place + 1] if place + 1 < len(opened) else None
        if (
            following is None
            or response[box.end() : following.start()].strip(" \n{$")
            or "{" not in response[box.end() : following.start()]
        ):
            kept.append(box)
    return kept


def _content(response: str, box: re.Match[str]) -> Span | None:
    """Return the span of a box's content, stripped; None if it is not closed."""
    if box[0] == "<|begin_of_box|>":
        end = response.find(_END, box.end())
        return None if end < 0 else _stripped(response, box.end(), end)
    if response[box.end() : box.end() + 1] == "{":
        depth = 0
        for match in _BRACES.finditer(response, box.end()):
            depth += {"{": 1, "}": -1}.get(match[0], 0)
            if depth == 0:
                return _stripped(response, box.end() + 1, match.start())
        return None
    return _unbraced(response, box.end())


def _unbraced(response: str, begin: int) -> Span:
    r"""Return the span of `7` in `\boxed 7`, or of `\frac12` in `\boxed\frac12`."""
    number = re.compile(r"-?\d+(?:\.\d+)?").match(response, begin)
    if number:
        return number.span()
    command = _ARGUMENT.match(response, begin)
    if command is None:
        return begin, begin
    end = command.end()
    count = (
        2 if re.match(r"\\[dtc]?(?:frac|binom)", command[0]) else 1 if command[0].startswith("\\sqrt") else 0
    )
    for _ in range(count):
        group = _GROUP.match(response, end)
        end = group.end() if group else end
    return begin, end


def _stripped(response: str, start: int, end: int) -> Span:
    content = response[start:end]
    first = start + len(content) - len(content.lstrip())
    return first, max(first, first + len(content.strip()))
