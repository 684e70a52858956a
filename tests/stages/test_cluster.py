"""What the judge's replies about a pair of answers mean."""

from __future__ import annotations

import pytest

from tasks.io.chat import Completion, Failure
from tasks.stages.cluster import verdict


def said(text: str, finish: str = "stop") -> Completion:
    return Completion(key="k", text=text, finish_reason=finish, prompt_tokens=1, completion_tokens=1)


def form(first: str, second: str, equivalent: str) -> Completion:
    return said(f'{{"first":"{first}","second":"{second}","equivalent":{equivalent}}}')


@pytest.mark.parametrize(
    ("forward", "backward", "equivalent", "flipped"),
    [
        (form("3/4", "3/4", "true"), form("3/4", "3/4", "true"), True, False),
        (form("3/4", "3/4", "false"), form("0.75", "3/4", "false"), True, False),  # the forms decide
        (form("3/4", "4/3", "true"), form("4/3", "3/4", "true"), False, False),
        (form("3/4", "3/4", "true"), form("4/3", "3/4", "true"), False, True),  # one order says no
        (form("all red", "only red", "true"), form("only red", "all red", "true"), True, False),  # no symbols
        (said("no JSON"), form("3/4", "3/4", "true"), False, True),
        (said('{"first":"3/4', "length"), form("3/4", "3/4", "true"), False, True),
        (Failure(key="k", reason="refused", attempts=1), form("1", "1", "true"), False, True),
    ],
)
def test_two_answers_are_merged_only_when_both_orders_say_so(
    forward: Completion | Failure, backward: Completion | Failure, equivalent: bool, flipped: bool
) -> None:
    judged = verdict(("a", "b"), forward, backward)
    assert (judged.equivalent, judged.flipped) == (equivalent, flipped)
