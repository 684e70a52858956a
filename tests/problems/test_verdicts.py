"""Parsing of raw replies: the accepted ones, and the reason for rejecting each of the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prompts.schemas import EQUIVALENCE_SCHEMA, QUALITY_SCHEMA
from tasks.problems.verdicts import (
    BadReply,
    EquivalenceVerdict,
    parse_equivalence,
    parse_evolution,
    parse_quality,
)
from tasks.rows import QUALITY_CRITERIA, Criteria, Reason

GOOD: dict[str, Any] = dict.fromkeys(QUALITY_CRITERIA, True)
PARENT = "Tom has 3 apples and buys 5 more. How many apples does he have?"


def reason(reply: Any) -> Reason | None:
    return reply.reason if isinstance(reply, BadReply) else None


def test_the_criteria_are_those_of_the_schema_and_each_has_a_reason() -> None:
    assert list(QUALITY_CRITERIA) == QUALITY_SCHEMA["required"]
    assert {f"not_{criterion}" for criterion in QUALITY_CRITERIA} < {str(reason) for reason in Reason}
    assert EQUIVALENCE_SCHEMA["required"] == ["first", "second", "equivalent"]


def test_a_problem_passes_if_all_five_criteria_are_met() -> None:
    verdict = parse_quality(json.dumps(GOOD), "stop")
    assert verdict == Criteria(
        well_formed=True, unambiguous=True, multi_step=True, closed_form=True, self_contained=True
    )
    assert isinstance(verdict, Criteria)
    assert verdict.failed == ()


@pytest.mark.parametrize("criterion", QUALITY_CRITERIA)
def test_one_failed_criterion_is_enough_to_fail(criterion: str) -> None:
    verdict = parse_quality(json.dumps(GOOD | {criterion: False}), "stop")
    assert isinstance(verdict, Criteria)
    assert verdict.failed == (criterion,)


@pytest.mark.parametrize(
    "wrapping",
    [
        "  {}\n", "```json\n{}\n```", "```\n{}```", "```json{}```", "```json\n{}", "<think>hm\n</think>\n\n{}",
        "Verdict: {}", "The reply has the form {\"well_formed\": ..., }. Mine:\n```json\n{}\n```\nAll five hold.",
        "For the set $\\{1, 2\\}$ and \\frac{1}{2} I find \"yes\": {}", "[{}]", '{"verdict": {}, "confidence": 0.9}',
    ],
)  # fmt: skip
def test_prose_fences_and_thinking_around_the_json_are_accepted(wrapping: str) -> None:
    for data in (GOOD, GOOD | {"self_contained": False}):
        verdict = parse_quality(wrapping.replace("{}", json.dumps(data)), "stop")
        assert verdict == Criteria(**data)


@pytest.mark.parametrize(
    "loose",
    [
        json.dumps(GOOD | {"reason": "It is sound, isn't it? {yes}", "notes": [1, {"x": None}]}),
        json.dumps(GOOD)[:-1] + ",}",
        json.dumps({"verdict": GOOD})[:-1] + ",}",
        json.dumps(GOOD).replace("true", '"true"'),
        json.dumps(GOOD).replace("true", '"True"'),
        json.dumps({key.title(): value for key, value in GOOD.items()}),
        str(GOOD),  # Python's quotes and constants
        json.dumps(GOOD)[:-1] + ', "n": ' + "9" * 5000 + "}",
    ],
)
def test_further_keys_and_loose_json_are_accepted(loose: str) -> None:
    assert parse_quality(loose, "stop") == Criteria(**GOOD)


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
        (json.dumps(GOOD) + json.dumps(GOOD), "stop", Reason.MALFORMED_REPLY),
        (
            json.dumps(GOOD) + "\nOn reflection: " + json.dumps({"well_formed": False}),
            "stop",
            Reason.MALFORMED_REPLY,
        ),
        (json.dumps({"first": GOOD, "second": GOOD}), "stop", Reason.MALFORMED_REPLY),
        (
            '{"clear": true, "complete": true, "consistent": true, "single_answer": true, "nontrivial": true}',
            "stop",
            Reason.MALFORMED_REPLY,
        ),
        (json.dumps(GOOD | {"well_formed": 1}), "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD | {"well_formed": "maybe"}), "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD | {"well_formed": None}), "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD | {"Well_Formed": False}), "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD)[:-1], "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD | {"well_formed": float("nan")}), "stop", Reason.MALFORMED_REPLY),
        (json.dumps(dict.fromkeys(QUALITY_CRITERIA[1:], True)), "stop", Reason.MALFORMED_REPLY),
        (json.dumps(GOOD)[:-1] + ', "well_formed": false}', "stop", Reason.MALFORMED_REPLY),
        ('{"' * 5000 + json.dumps(GOOD), "stop", Reason.MALFORMED_REPLY),
        ('{"a":' * 3000, "stop", Reason.MALFORMED_REPLY),
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
    "form",
    [
        r"\frac{1}{2}", r"\sqrt{2}", r"\beta + \bar{x}", r"\theta \times \tau", r"\text{no}", r"\nu \neq \rho", r"\{1, 2\}",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}a\\b\end{pmatrix}", r"\underline{x}", r"5\,\%",
    ],
)  # fmt: skip
def test_latex_is_read_the_same_whether_or_not_its_backslashes_are_escaped(form: str) -> None:
    expected = EquivalenceVerdict(first=form, second=form, equivalent=True)
    escaped = json.dumps({"first": form, "second": form, "equivalent": True})
    raw = f'{{"first": "{form}", "second": "{form}", "equivalent": true}}'
    assert parse_equivalence(escaped, "stop") == parse_equivalence(raw, "stop") == expected


def test_numbers_are_kept_as_they_are_written_and_other_escapes_as_json_has_them() -> None:
    assert parse_equivalence('{"first": 5, "second": 5.0, "equivalent": true}', "stop") == EquivalenceVerdict(
        first="5", second="5.0", equivalent=True
    )
    reply = r'{"first": "a \n 1\/2 \u00b2", "second": "\frac12 \"", "equivalent": false}'
    assert parse_equivalence(reply, "stop") == EquivalenceVerdict(
        first="a \n 1/2 ²", second='\\frac12 "', equivalent=False
    )
    assert reason(parse_equivalence('{"first": [5], "second": "5", "equivalent": true}', "stop")) is (
        Reason.MALFORMED_REPLY
    )


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
        ("n!", "n! + 1", True, False),
        (r"\int x dx", "x + C", True, True),  # outside the grammar
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
        ("<evolved>What is 3 + 4?\nSolution. Add.</evolved>", Reason.SOLUTION_LEAKED),
        ("<evolved>What is 3 + 4?\n**Solution**\nAdd.</evolved>", Reason.SOLUTION_LEAKED),
        ("<evolved>What is 3 + 4?\n### Final answer\n7</evolved>", Reason.SOLUTION_LEAKED),
        ("<evolved>What is 3 + 4? The answer is 7.</evolved>", Reason.SOLUTION_LEAKED),
        ("<evolved>What is 3 + 4?<|im_end|></evolved>", Reason.CONTROL_TOKEN),
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


@pytest.mark.parametrize(
    "text",
    [
        'Nine friends share 60 sweets equally and Anna says "I cannot eat more than 5". How many are left over?',
        "Sam says: I cannot count. How many apples are 3+4?",
        "I cannot recall my code: its 4 digits are even and add up to 8. How many codes are possible?",
        "Give your answer: as a fraction. What is 3/6?",
        r"What is 3/6? Put your answer in \boxed{}.",
        r"What is 3/6? Write it as \boxed{\text{answer}}.",
        "Solution A has 20% salt. Solution B has 30%. What is the share of salt in the mixture of equal parts?",
        "Find a solution: x + y = 7 with x = 3. What is y?",
    ],
)
def test_a_text_that_mentions_an_answer_or_a_refusal_is_a_problem(text: str) -> None:
    assert parse_evolution(f"<evolved>{text}</evolved>", "stop", PARENT) == text
    assert (
        parse_evolution(f"Sure.\n<Evolved>\n{text}\n</ EVOLVED >\nI hope this helps!", "stop", PARENT) == text
    )


def test_the_length_limit_is_a_setting() -> None:
    reply = "<evolved>What is 3 + 4?</evolved>"
    assert reason(parse_evolution(reply, "stop", PARENT, 10)) is Reason.REPLY_TOO_LONG
