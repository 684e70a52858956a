"""The tokens of a response that follow its thinking, and those of its answer, with their log-probabilities."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite
from typing import Final

from tasks.answers.extraction import answer_span

_CLOSING: Final = "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpans:
    """Token counts and log-probability sums (nats) after the last `</think>`, and of the content of the last box.

    If the thinking did not end, or there is no answer, the count is 0 and the sum None.
    """

    after_think_token_count: int = 0
    after_think_logprob_sum: float | None = None
    answer_token_count: int = 0
    answer_logprob_sum: float | None = None


def token_spans(text: str, logprobs: Sequence[float], ends: Callable[[int], int]) -> TokenSpans:
    """Return the spans of a response of `len(logprobs)` tokens.

    `ends(k)` is the number of characters of the first k tokens; it must not decrease. A token that overlaps a span belongs
    to it. In a response without thinking every token counts as after the thinking; the end token always does. A sum that
    is not finite becomes None.
    """
    total = len(logprobs)

    def first_at(position: int) -> int:
        """Return the first token with a character at or after `position`."""
        token = bisect_left(range(total), position, key=ends)
        return token - 1 if token > 0 and (token == total or ends(token) > position) else token

    closing = text.rfind(_CLOSING)
    begin = 0 if closing < 0 else closing + len(_CLOSING)
    ended = text.find("<think>", begin) < 0
    after = (first_at(begin) if begin else 0, total) if ended else (0, 0)
    box = answer_span(text)
    answer = (0, 0) if box is None else (first_at(box[0]), bisect_left(range(total), box[1], key=ends))
    after_count, after_sum = _summed(logprobs[slice(*after)])
    answer_count, answer_sum = _summed(logprobs[slice(*answer)])
    return TokenSpans(
        after_think_token_count=after_count,
        after_think_logprob_sum=after_sum,
        answer_token_count=answer_count,
        answer_logprob_sum=answer_sum,
    )


def ends_of_pieces(text: str, pieces: Sequence[str]) -> Callable[[int], int] | None:
    """Return `ends` for the texts of the tokens, or None if they do not concatenate to `text`.

    Special tokens may follow the text.
    """
    if not "".join(pieces).startswith(text):
        return None
    return list(accumulate(map(len, pieces), initial=0)).__getitem__


def _summed(logprobs: Sequence[float]) -> tuple[int, float | None]:
    """Return the count and the sequential sum, with the same rounding as in the engine."""
    total = 0.0
    for value in logprobs:
        total += value
    return (len(logprobs), total) if logprobs and isfinite(total) else (0, None)
