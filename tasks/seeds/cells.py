r"""The text of a cell: numbers, lists and chat messages as text, and the characters that no problem contains. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from tasks.storage.records import MAX_BYTES

_USER, _ASSISTANT = ("user", "human"), ("assistant", "gpt", "model")
_NAMES = {
    "\a": "an alert", "\b": "a backspace", "\t": "a tab", "\n": "a line break", "\v": "a vertical tab", "\f": "a form feed",
    "\r": "a carriage return",
}  # fmt: skip
# What is left of a LaTeX command whose backslash and first letter were read as one character.
_EATEN = re.compile(
    r"\f(?:rac\s*[\d{\\]|orall)"
    r"|\t(?:imes|heta|riangle|ilde|herefore|ext[a-z]{0,6}\s*\{|(?:frac|binom)\s*[\d{\\]|(?:an|au|op?)\s?[({\\^_$=\d]|an [a-z]\b)"
    r"|\n(?:abla|eq(?![a-z.])|subseteq|earrow)|\r(?:ight(?![a-z])|ightarrow|ho(?![a-z])|(?:angle|brace|ceil|floor|vert)\b)"
    r"|[\x07\x08\x0b](?=[A-Za-z])"
)
_NEEDS_LATEX = re.compile(r"\tan [a-z]|\neq|\r(?:angle|brace|floor|vert)")  # tails that may also be words


class Unusable(Exception):
    """A value that cannot be used; the message continues the place of its row."""


def text_of(value: Any) -> str | None:
    """Return the text of a problem: a string, or the last user message of a chat. Raises `Unusable`."""
    if (chat := chat_of(value)) is not None:
        return message(chat, _USER)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    raise Unusable(f"is of type {type(value).__name__}, not a string: put it in quotes")


def answer_of(value: Any) -> str | None:
    """Return an answer: a string, a number, a list of these joined by commas, or the last assistant message of a chat. Raises
    `Unusable`."""
    if (chat := chat_of(value)) is not None:
        return message(chat, _ASSISTANT)
    if isinstance(value, list):
        return ", ".join(filter(None, map(number_text, value))) or None
    if isinstance(value, Mapping):
        raise Unusable(
            f"is an object with {', '.join(value) or 'nothing'}: name one of its entries after a dot"
        )
    return number_text(value)


def solution_of(value: Any) -> str | None:
    """Return a solution: like an answer, but lists are joined by blank lines. Raises `Unusable`."""
    if isinstance(value, list) and chat_of(value) is None:
        return "\n\n".join(filter(None, map(number_text, value))) or None
    return answer_of(value)


def number_text(value: Any) -> str | None:
    r"""Return a string unchanged and a number in decimal notation, without `.0` if it is an integer; infinity as `\infty`, and
    None for None and NaN. Raises `Unusable` for other types."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Unusable(f"is of type {type(value).__name__}, not a string: put it in quotes")
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return None if math.isnan(value) else "\\infty" if value > 0 else "-\\infty"
    exact = Decimal(repr(value)) if isinstance(value, float) else value
    return str(int(exact)) if exact == exact.to_integral_value() else format(exact, "f")


def chat_of(value: Any) -> Sequence[Mapping[str, Any]] | None:
    """Return the messages of a chat, also if they are written as JSON text; None for anything else."""
    if isinstance(value, str) and value.startswith("[{") and '"role"' in value[:MAX_BYTES]:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) for turn in value):
        return None
    keys = {"role", "content"} if "role" in value[0] else {"from", "value"}
    return value if all(keys <= turn.keys() for turn in value) else None


def message(chat: Sequence[Mapping[str, Any]], roles: Sequence[str]) -> str | None:
    """Return the text of the last message of one of the roles; None if there is none. Raises `Unusable` for an image."""
    for turn in reversed(chat):
        if turn.get("role", turn.get("from")) in roles:
            content = turn.get("content", turn.get("value"))
            if isinstance(content, list):
                content = "\n".join(_part(part) for part in content)
            return content if isinstance(content, str) else None
    return None


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, Mapping) else None
    if not isinstance(text, str):
        raise Unusable("has a message with an image or another part without text: remove the row")
    return text


def check_text(text: str) -> None:
    """Raise `Unusable` for a text that is too long, is not valid Unicode, or contains the control characters that are left where
    LaTeX was written into JSON without doubled backslashes."""
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise Unusable("contains a lone surrogate, which is not valid UTF-8: correct it") from error
    if size > MAX_BYTES:
        raise Unusable(f"is longer than {MAX_BYTES:,} bytes: shorten or remove it")
    latex, found = "\\" in text or "$" in text, {}
    for match in _EATEN.finditer(text):
        if latex or not _NEEDS_LATEX.match(match[0]):
            found.setdefault(match[0][0], match.start())
    if found:
        places = [
            f"{_NAMES[sign]} before {text[place + 1 : place + 7]!r} (character {place + 1})"
            for sign, place in found.items()
        ]
        raise Unusable(
            f"has {' and '.join(places)}, which is left of LaTeX written with single backslashes: write the file again with"
            " doubled backslashes, e.g. with a JSON library"
        )


def plain(value: Any) -> Any:
    """Return a value as JSON data: NaN as None, other types as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def json_object(values: Mapping[str, Any]) -> str:
    """Return values as a JSON object. Raises `Unusable` if it is too long or too deep."""
    try:
        text = json.dumps(plain(values), ensure_ascii=False)
    except RecursionError as error:
        raise Unusable("has a column with too many levels: remove it") from error
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise Unusable(
            f"has other columns of more than {MAX_BYTES:,} bytes, which cannot be kept: remove some"
        )
    return text.encode("utf-8", "replace").decode("utf-8")
