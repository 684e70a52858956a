"""Text for people: counted nouns, names in words, and control characters made visible. Text for models: control tokens found.
Pure."""

from __future__ import annotations

import re

__all__ = ["control_token", "counted", "is_utf8", "visible", "words"]

# Characters that a terminal or browser obeys or does not draw: controls (without tab and newline), soft hyphen, bidirectional
# controls, zero-width characters, fillers, variation selectors, tags, line separators, surrogates (Unicode's
# Default_Ignorable_Code_Point, with Cc, Zl, Zp, Cs and the interlinear annotations).
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)

# Tokens by which chat templates divide turns, of Qwen, Llama, DeepSeek, Mistral, Gemma, Phi, OLMo and GPT models.
_CONTROL_TOKEN = re.compile(
    r"<[|｜][^<>\s]{1,40}[|｜]>|</?(?:think|tool_call|tool_response|s|bos|eos|pad|unk)>|<(?:start|end)_of_turn>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\]|<</?SYS>>"
)


def control_token(text: str) -> str | None:
    """Return the first control token of a common chat template in a text, or None. Such a text is not sent to a chat endpoint,
    which would take the token for the end of a turn."""
    found = _CONTROL_TOKEN.search(text)
    return found[0] if found else None


def visible(text: str) -> str:
    r"""Return `text` with each control or invisible character written as `<U+202E>`.

    Tab and newline stay, and "\r\n" becomes a newline. The result can be encoded as UTF-8. It is at most nine times as long as
    the text and is not escaped for HTML or Markdown.
    """
    return _UNSEEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text.replace("\r\n", "\n"))


def is_utf8(text: str) -> bool:
    """Whether a text has no lone surrogates, which stand for bytes of a file name that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return the count with its noun or phrase: "1 problem", "2,000 problems"; `many` is by default `one` with an "s"."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def words(name: str) -> str:
    """Return the name of a reason or criterion as words: "near_duplicate" becomes "near duplicate"."""
    return name.replace("_", " ")
