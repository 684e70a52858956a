"""The tokens of the answer, and those after the thinking."""

from __future__ import annotations

from itertools import accumulate

import pytest

from tasks.answers.token_spans import TokenSpans, ends_of_pieces, token_spans

END = "<|end|>"


def spans(pieces: list[str], text: str | None = None) -> TokenSpans:
    """Return the spans; token i has log-probability -2^i, so that a sum identifies its tokens."""
    text = "".join(pieces).removesuffix(END) if text is None else text
    ends = ends_of_pieces(text, pieces)
    assert ends is not None
    return token_spans(text, [-float(2**i) for i in range(len(pieces))], ends)


def tokens(total: float | None) -> list[int]:
    return [] if total is None else [i for i in range(40) if int(-total) >> i & 1]


@pytest.mark.parametrize(
    ("pieces", "after", "answer"),
    [
        (["so ", "\\boxed", "{", "4", "2", "}", END], [0, 1, 2, 3, 4, 5, 6], [3, 4]),
        (["so ", "\\boxed{", "42", "}.", END], [0, 1, 2, 3, 4], [2]),
        (["\\boxed{4", "2}"], [0, 1], [0, 1]),  # a token that overlaps the span belongs to it
        (["\\boxed{", " ", "4", " ", "}"], [0, 1, 2, 3, 4], [2]),  # the answer is stripped
        (["\\boxed{1}", "\\boxed{", "2", "}"], [0, 1, 2, 3], [2]),
        (["<think>", "\\boxed{1}", "</think>", "\\boxed{", "2", "}", END], [3, 4, 5, 6], [4]),
        (["<think>", "a", "</thi", "nk>\n\n", "\\boxed{", "2", "}"], [3, 4, 5, 6], [5]),
        (["hm", "</think>", END], [2], []),  # the chat template opened the thinking
        (["<think>", "\\boxed{1}"], [], []),  # the thinking does not end
        (["no box", END], [0, 1], []),
        (["\\boxed{", "1"], [0, 1], []),
        ([END], [0], []),
    ],
)
def test_spans_of_a_response(pieces: list[str], after: list[int], answer: list[int]) -> None:
    found = spans(pieces)
    assert (tokens(found.after_think_logprob_sum), found.after_think_token_count) == (after, len(after))
    assert (tokens(found.answer_logprob_sum), found.answer_token_count) == (answer, len(answer))


def test_the_tokens_of_one_character_stay_together() -> None:
    # the bytes of a character are split into three tokens: the first two give no text yet
    found = spans(["\\boxed{", "", "", "√", "2", "", "é", "}"], "\\boxed{√2é}")
    assert tokens(found.answer_logprob_sum) == [1, 2, 3, 4, 5, 6]


def test_pieces_that_do_not_match_the_text_are_rejected_and_any_function_works_as_ends() -> None:
    assert ends_of_pieces("a b", ["a", "b"]) is None
    ends = list(accumulate((1, 1), initial=1)).__getitem__
    assert token_spans("a b", [-1.0, -2.0], ends).after_think_logprob_sum == -3.0


def test_a_sum_that_is_not_finite_is_none() -> None:
    ends = ends_of_pieces("\\boxed{1}", ["\\boxed{", "1", "}"])
    assert ends is not None
    found = token_spans("\\boxed{1}", [-1.0, float("nan"), -1.0], ends)
    assert found == TokenSpans()


def test_no_tokens_have_no_spans() -> None:
    assert token_spans("", [], [0].__getitem__) == TokenSpans()
