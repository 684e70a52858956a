"""Which pairs the judge is asked about, and what its replies mean."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from prompts import MAX_VALUE_CHARS
from tasks.config import DecontamSettings, NeighbourSettings
from tasks.llm.chat import Completion, Failure
from tasks.rows import FindingKind, Problem
from tasks.runtime.decontamination import TEST_SPLIT, compare
from tasks.runtime.neighbours import Pair, finding, judged, pairs, request
from tests.stages.test_decontaminate import child, row

SETTINGS, JUDGE = DecontamSettings(), NeighbourSettings(count=2, threshold=0.1)
EXAM = "A ladder leans against a wall. Its foot stands 7 metres away and its top reaches 24 metres high. How long is it?"
NEAR = "A plank leans against a wall. Its foot stands 8 metres away and its end reaches 15 metres high. How long is it?"
FAR = "Seven friends share walnuts equally."


def asked(rows: list[Problem], against: list[Problem], flagged: tuple[str, ...] = ()) -> dict[str, list[str]]:
    found = pairs(rows, against, flagged, SETTINGS, JUDGE)
    return {name: [pair.benchmark.id for pair in listed] for name, listed in found.items()}


def test_a_problem_is_asked_about_with_its_nearest_benchmark_problems() -> None:
    exam = [row("far", FAR), row("near", EXAM), row("same", EXAM), row("third", EXAM + " Explain it.")]
    assert asked([row("a", NEAR), row("b", "Nothing of this kind."), row("c", EXAM)], exam, ("c",)) == {
        "a": ["near", "same"], "b": [],
    }  # fmt: skip
    long = row("long", EXAM + " x" * MAX_VALUE_CHARS)
    assert asked([row("a", NEAR)], [long]) == {"a": []}


def test_a_held_out_problem_is_not_compared_with_its_own_split() -> None:
    split = [row("a", NEAR, source=TEST_SPLIT), row("b", EXAM, source=TEST_SPLIT)]
    exam = row("exam", EXAM, source="exam")
    assert asked([row("a", NEAR), row("c", NEAR)], [*split, exam]) == {"a": ["exam"], "c": ["a", "b"]}


def pair() -> Pair:
    return Pair(row=row("a", NEAR), benchmark=row("exam", EXAM, source="exam"), similarity=0.5)


def reply(text: str, finish_reason: str = "stop") -> Completion:
    return Completion(key="k", text=text, finish_reason=finish_reason, prompt_tokens=1, completion_tokens=1)


def test_the_request_depends_on_both_problems() -> None:
    own = request(pair(), JUDGE)
    text = own.messages[-1]["content"]
    assert f"<first>\n{EXAM}\n</first>" in text and f"<second>\n{NEAR}\n</second>" in text
    other = request(replace(pair(), benchmark=row("other", EXAM)), JUDGE)
    assert own.seed != other.seed and own.key != other.key and own.schema_name == "overlap"


@pytest.mark.parametrize(
    ("answer", "same", "reason"),
    [
        (reply(json.dumps({"reason": "Both ask for  the length.", "same": True})), True, "Both ask for the length."),
        (reply(json.dumps({"reason": "Other numbers.", "same": False})), False, "Other numbers."),
        (reply("They are the same."), None, "malformed_reply: 0 JSON objects with a verdict in: They are the same."),
        (reply("{", "length"), None, "truncated: cut off after 1 characters"),
        (Failure(key="k", reason="HTTP 500", attempts=3), None, "model_error: HTTP 500"),
    ],
)  # fmt: skip
def test_a_reply_becomes_a_verdict_or_a_reason(
    answer: Completion | Failure, same: bool | None, reason: str
) -> None:
    found = judged(pair(), answer, "judge@1")
    assert (found.same, found.reason, found.model) == (same, reason, "judge@1")
    assert (found.problem_id, found.benchmark, found.benchmark_problem_id, found.similarity) == (
        "a",
        "exam",
        "exam",
        0.5,
    )
    assert found.reply == (answer.text if isinstance(answer, Completion) else "")


def test_a_problem_that_the_judge_recognises_is_flagged_with_its_descendants() -> None:
    parent = row("a", NEAR)
    below = child(parent, FAR)
    verdict = judged(pair(), reply(json.dumps({"reason": "The same.", "same": True})), "judge@1")
    result = compare(
        [parent, below],
        [],
        [row("exam", EXAM, source="exam")],
        DecontamSettings(checks=()),
        judged=[finding(verdict)],
    )
    assert [(one.kind, one.benchmark, one.detail) for one in result["a"]] == [
        (FindingKind.JUDGE, "exam", "The same.")
    ]
    assert [(one.kind, one.detail) for one in result[below.id]] == [(FindingKind.LINEAGE, "descends from a")]
