"""Verdicts from the judge's replies to both orders of a pair, and concurrent decisions for many problems."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from tasks.config import ClusterSettings
from tasks.llm.chat import Completion, Failure
from tasks.rows import Response
from tasks.runtime import clustering
from tasks.runtime.clustering import Decisions, decide_pairs, deciding
from tasks.runtime.equivalence_judge import verdict
from tests.uncertainty.test_measures import response


def output(text: str, finish: str = "stop") -> Completion:
    return Completion(key="k", text=text, finish_reason=finish, prompt_tokens=1, completion_tokens=1)


def form(first: str, second: str, equivalent: str) -> Completion:
    return output(f'{{"first":"{first}","second":"{second}","equivalent":{equivalent}}}')


@pytest.mark.parametrize(
    ("forward", "backward", "equivalent", "flipped"),
    [
        (form("3/4", "3/4", "true"), form("3/4", "3/4", "true"), True, False),
        (form("3/4", "3/4", "false"), form("0.75", "3/4", "false"), True, False),  # the stated forms decide
        (form("3/4", "4/3", "true"), form("4/3", "3/4", "true"), False, False),
        (form("3/4", "3/4", "true"), form("4/3", "3/4", "true"), False, True),  # one order is a no
        (
            form("all red", "only red", "true"),
            form("only red", "all red", "true"),
            True,
            False,
        ),  # not symbolic
        (output("no JSON"), form("3/4", "3/4", "true"), False, True),
        (output('{"first":"3/4', "length"), form("3/4", "3/4", "true"), False, True),
        (Failure(key="k", reason="refused", attempts=1), form("1", "1", "true"), False, True),
    ],
)
def test_two_answers_are_equivalent_only_if_both_orders_agree(
    forward: Completion | Failure, backward: Completion | Failure, equivalent: bool, flipped: bool
) -> None:
    judged = verdict(("a", "b"), forward, backward)
    assert (judged.equivalent, judged.flipped) == (equivalent, flipped)


# --- many problems at once -------------------------------------------------------------------------------------------

GROUPS: dict[str, Sequence[Response]] = {
    f"p{number}": [
        response(index, -1.0, 4, answer=answer)
        for index, answer in enumerate((f"{number}", f"{number}.0", f"{number + 1}"))
    ]
    for number in range(40)
}


@pytest.mark.parametrize("workers", [1, 4])
def test_every_problem_has_its_own_decisions_in_the_order_given(workers: int) -> None:
    settings = ClusterSettings()
    with deciding(GROUPS, settings, workers) as found:
        decided = list(found)
    assert decided == [(name, decide_pairs(group, settings)) for name, group in GROUPS.items()]
    assert decided[7][1] == {("7", "7.0"): True, ("7", "8"): False, ("7.0", "8"): False}


def test_pairs_that_a_ruling_makes_equal_but_the_other_answers_do_not_are_counted() -> None:
    answers = ("198", r"198\%", "1.98")
    group = [response(index, -1.0, 4, answer=answer) for index, answer in enumerate(answers)]
    both = decide_pairs(group[:2], ClusterSettings())
    assert (both, both.ambiguous) == ({("198", r"198\%"): True}, 0)
    three = decide_pairs(group, ClusterSettings())
    assert three == {("198", r"198\%"): False, ("1.98", "198"): False, ("1.98", r"198\%"): True}
    assert three.ambiguous == 1


def test_an_exception_drops_the_decisions_that_have_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []

    def slow(group: Sequence[Response], settings: ClusterSettings) -> Decisions:
        begun.append(group)
        time.sleep(0.05)
        return Decisions()

    monkeypatch.setattr(clustering, "decide_pairs", slow)
    with pytest.raises(KeyboardInterrupt), deciding(GROUPS, ClusterSettings(), 2) as found:
        next(found)
        raise KeyboardInterrupt
    assert len(begun) < 10
