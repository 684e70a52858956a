"""Parsing of raw replies: the accepted ones, and the reason for rejecting each of the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prompts.schemas import EQUIVALENCE_SCHEMA
from prompts.schemas import QUALITY_CRITERIA as PROMPTED
from tasks.problems.verdicts import (
    QUALITY_CRITERIA,
    BadReply,
    EquivalenceVerdict,
    QualityVerdict,
    parse_equivalence,
    parse_evolution,
    parse_quality,
)
from tasks.rows import Reason

GOOD: dict[str, Any] = dict.fromkeys(QUALITY_CRITERIA, True)
PARENT = "Tom has 3 apples and buys 5 more. How many apples does he have?"


def reason(reply: Any) -> Reason | None:
    return reply.reason if isinstance(reply, BadReply) else None


def test_the_criteria_are_those_of_the_prompt() -> None:
    assert tuple(QUALITY_CRITERIA) == PROMPTED
    assert EQUIVALENCE_SCHEMA["required"] == ["first", "second", "equivalent"]


def test_a_problem_passes_if_all_five_criteria_are_met() -> None:
    verdict = parse_quality(json.dumps(GOOD), "stop")
    assert verdict == QualityVerdict(
        clear=True, complete=True, consistent=True, single_answer=True, nontrivial=True
    )
    assert isinstance(verdict, QualityVerdict)
    assert verdict.passed


@pytest.mark.parametrize("criterion", QUALITY_CRITERIA)
def test_one_failed_criterion_is_enough_to_fail(criterion: str) -> None:
    verdict = parse_quality(json.dumps(GOOD | {criterion: False}), "stop")
    assert isinstance(verdict, QualityVerdict)
    assert not verdict.passed
    assert verdict.failed == (criterion,)


@pytest.mark.parametrize(
    "wrapping", ["  {}\n", "```json\n{}\n```", "```\n{}```", "<think>hm\n</think>\n\n{}"]
)
def test_white_space_fences_and_thinking_around_the_json_are_accepted(wrapping: str) -> None:
    assert isinstance(parse_quality(wrapping.replace("{}", json.dumps(GOOD)), "stop"), QualityVerdict)


@pytest.mark.parametrize(
    ("reply", "finish", "expected"),
    [
        ("", "stop", Reason.NO_REPLY),
        (" \n ", "stop", Reason.NO_REPLY),
        (json.dumps(GOOD), "length", Reason.TRUNCATED),
        ("x" * 100_000, "stop", Reason.REPLY_TOO_LONG),
        ("yes, all of them", "stop", Reason.MALFORMED_REPLY),
        ("[" * 15_000, "stop", Reason.MALFORMED_REPLY),
        ("[true, true, true, true, true]", "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD) + " indeed", "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD | {"clear": 1}), "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD | {"clear": "true"}), "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD | {"clear": float("nan")}), "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD | {"extra": True}), "stop", Reason.MALFORMED_REPLY),
        (json.dumps(dict.fromkeys(QUALITY_CRITERIA[1:], True)), "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD)[:-1] + ', "clear": false}', "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD)[:-1] + ', "n": ' + "9" * 5000 + "}", "stop", Reason.MALFORMED_REPLY),
    ],
)
def test_any_other_reply_gets_its_reason(reply: str, finish: str, expected: Reason) -> None:
    assert reason(parse_quality(reply, finish)) is expected


def test_the_equivalence_judges_reply_has_both_forms_and_a_verdict() -> None:
    reply = '{"first": "1/2", "second": "1/2", "equivalent": true}'
    assert parse_equivalence(reply, "stop") == EquivalenceVerdict(first="1/2", second="1/2", equivalent=True)
    assert reason(parse_equivalence(reply.replace("true", '"yes"'), "stop")) is Reason.MALFORMED_REPLY
    assert reason(parse_equivalence('{"equivalent": true}', "stop")) is Reason.MALFORMED_REPLY
    assert reason(parse_equivalence(reply, "length")) is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("first", "second", "output", "same"),
    [
        ("1/2", "0.5", False, True),  # the forms decide
        ("1/2", "1/3", True, False),
        ("(3, 23)", "[3, 23]", True, False),
        ("(10, \\infty)", "[10, \\infty)", True, False),
        ("10x + 28", "10x + 38", True, False),
        ("x + 1", "1 + x", False, True),
        ("2k", "2n", True, True),  # another name for an integer: the judge decides
        ("all even numbers", "the even numbers", True, True),
        ("Monday", "Tuesday", False, False),
        ("n!", "n! + 1", True, True),
    ],
)
def test_simplest_forms_decide_if_they_can_and_otherwise_the_judge(
    first: str, second: str, output: bool, same: bool
) -> None:
    assert EquivalenceVerdict(first=first, second=second, equivalent=output).same is same
    assert EquivalenceVerdict(first=second, second=first, equivalent=output).same is same


# --- evolution ---------------------------------------------------------------------------------------------------


def test_the_evolved_problem_is_the_cleaned_content_of_the_block() -> None:
    reply = "Here it is:\n<evolved>\n  Find   the\tsum\x07 of\u202e 1.5 and 2. \n\n\n\nGive it  exactly.\n</evolved>\nEnjoy!"
    assert parse_evolution(reply, "stop", PARENT) == "Find the sum of 1.5 and 2.\n\nGive it exactly."


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", Reason.NO_REPLY),
        ("Tom has 4 apples.", Reason.MALFORMED_REPLY),
        ("<evolved>Tom has 4 apples.", Reason.MALFORMED_REPLY),
        ("</evolved>Tom has 4 apples.<evolved>", Reason.MALFORMED_REPLY),
        ("<evolved>One.</evolved><evolved>Two.</evolved>", Reason.MALFORMED_REPLY),
        ("<evolved> \n </evolved>", Reason.MALFORMED_REPLY),
        (f"<evolved>{PARENT}</evolved>", Reason.ECHO),
        (f"<evolved>{PARENT.upper().replace(' ', '  ').replace('?', '!?')[:-2]}</evolved>", Reason.ECHO),
        ("I'm sorry, I can't help with that.", Reason.REFUSAL),
        ("I\u2019m sorry. <evolved>Tom has 4 apples.</evolved>", Reason.REFUSAL),
        ("<evolved>As an AI model I do not write problems.</evolved>", Reason.REFUSAL),
        ("<evolved>Unfortunately, I cannot do this.</evolved>", Reason.REFUSAL),
        (r"<evolved>What is 3 + 4? \boxed{7}</evolved>", Reason.SOLUTION_LEAKED),
        ("<evolved>What is 3 + 4?\n**Answer**: 7</evolved>", Reason.SOLUTION_LEAKED),
        ("<evolved>What is 3 + 4? Solution: add.</evolved>", Reason.SOLUTION_LEAKED),
        ("<evolved>" + "a" * 20_000 + "</evolved>", Reason.REPLY_TOO_LONG),
    ],
)
def test_a_reply_without_a_new_problem_gets_its_reason(reply: str, expected: Reason) -> None:
    assert reason(parse_evolution(reply, "stop", PARENT)) is expected


def test_a_truncated_evolution_is_rejected_even_with_a_complete_block() -> None:
    assert reason(parse_evolution("<evolved>What is 3 + 4?</evolved>", "length", PARENT)) is Reason.TRUNCATED


def test_one_changed_sign_or_decimal_point_is_not_an_echo() -> None:
    for parent, child in (("Find 2 + 3.", "Find 2 - 3."), ("Find 2 * 1.5.", "Find 2 * 15.")):
        assert parse_evolution(f"<evolved>{child}</evolved>", "stop", parent) == child


def test_a_refusal_inside_the_problem_text_is_not_a_refusal() -> None:
    text = 'Nine friends share 60 sweets equally and Anna says "I cannot eat more than 5". How many are left over?'
    assert parse_evolution(f"<evolved>{text}</evolved>", "stop", PARENT) == text


def test_the_length_limit_is_a_setting() -> None:
    reply = "<evolved>What is 3 + 4?</evolved>"
    assert reason(parse_evolution(reply, "stop", PARENT, 10)) is Reason.REPLY_TOO_LONG
