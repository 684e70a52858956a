"""Prompts as token ids. Text from data sets and models is encoded as text, never as tokens of the chat template.

A tokenizer turns every occurrence of an added token (`<|im_end|>`, `<think>`) into that token, also in a problem, which could
thus end the user's turn. Where an occurrence is not part of the prompt or the chat template, the text is divided inside it,
and the pieces are encoded separately.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from prompts import Prompt

OPENED, CLOSING = "<think>", "\n\n</think>\n\n"
"""The end of a prompt in which a response would think, and what closes it, as in Qwen3's template."""
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"  # private use: no prompt, template or added token has them
_PLACE = re.compile(f"{_OPEN}([a-z0-9_]+){_CLOSE}")


class UnsafeText(ValueError):
    """A text cannot be encoded without tokens of the chat template."""


@dataclass(frozen=True, slots=True)
class _Outline:
    """A prompt in a chat template without its data: fixed text at even places, names of variables at odd places."""

    parts: tuple[str, ...]
    controls: tuple[str, ...]  # the added tokens of the fixed text, in order


class PromptEncoder:
    """Encodes prompts with one tokenizer of transformers, in its chat template with the generation prompt.

    `template_options` are further variables of the chat template, such as `enable_thinking`. With `enable_thinking=False` a
    prompt never ends inside a think block: where a template opens one all the same, as those of the models that DeepSeek
    distilled do, an empty block takes its place.
    """

    def __init__(self, tokenizer: Any, **template_options: Any) -> None:
        self._tokenizer = tokenizer
        self._options = template_options
        self._ids = frozenset(tokenizer.get_added_vocab().values())
        self._added = added_tokens(tokenizer)
        self._any = re.compile("|".join(map(re.escape, self._added)) or r"(?!)")
        self._outlines: dict[str, _Outline] = {}

    def encode(self, prompt: Prompt, values: Mapping[str, str]) -> list[int]:
        """Return the token ids of a prompt with these values.

        If no value contains an added token, the ids are those of `apply_chat_template`. Raises `UnsafeText` if a value contains
        one and the tokenizer or the template does not permit encoding it as text, and whatever the template raises.
        """
        text = self._templated(prompt.render(**values))
        outline = self._outline(prompt)
        if tuple(self._any.findall(text)) == outline.controls:
            return self._encoded(text)
        return self._encode_pieces(text, outline, prompt.data(**values))

    def _templated(self, messages: list[dict[str, str]]) -> str:
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self._options
        )
        opened = text.rstrip().endswith(OPENED) and self._options.get("enable_thinking") is False
        return f"{text.rstrip()}{CLOSING}" if opened else text

    def _encoded(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _outline(self, prompt: Prompt) -> _Outline:
        if prompt.fingerprint not in self._outlines:
            places = {name: f"{_OPEN}{name}{_CLOSE}" for name in prompt.variables}
            parts = tuple(_PLACE.split(self._templated(prompt.render(**places))))
            controls = tuple(found for part in parts[::2] for found in self._any.findall(part))
            self._outlines[prompt.fingerprint] = _Outline(parts, controls)
        return self._outlines[prompt.fingerprint]

    def _encode_pieces(self, text: str, outline: _Outline, data: Mapping[str, str]) -> list[int]:
        parts = [data[part] if place % 2 else part for place, part in enumerate(outline.parts)]
        if "".join(parts) != text:
            raise UnsafeText("the chat template changes a text that contains one of its tokens")
        cuts = sorted({0, len(text), *self._cuts(parts)})
        pieces = [self._encoded(text[start:end]) for start, end in pairwise(cuts)]
        ids = [token for piece in pieces for token in piece]
        found = tuple(self._tokenizer.convert_ids_to_tokens([token for token in ids if token in self._ids]))
        if found != outline.controls or self._decoded(ids) != self._decoded(self._encoded(text)):
            raise UnsafeText("the tokenizer cannot encode a token of its chat template as text")
        return ids

    def _cuts(self, parts: list[str]) -> Iterator[int]:
        """Yield a place inside every added token of the text that is not entirely in one piece of fixed text."""
        text, ends = "".join(parts), [0]
        for part in parts:
            ends.append(ends[-1] + len(part))
        fixed = list(zip(ends[:-1:2], ends[1::2], strict=True))
        for token in self._added:
            start = text.find(token)
            while start >= 0:
                if not any(low <= start and start + len(token) <= high for low, high in fixed):
                    yield start + 1
                start = text.find(token, start + 1)

    def _decoded(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def added_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the added tokens that a text could be mistaken for, the longest first: not white space or single characters."""
    words = (token for token in tokenizer.get_added_vocab() if len(token) > 1 and token.strip())
    return tuple(sorted(words, key=lambda token: (-len(token), token)))
