"""Strings that are meant to exhaust the grader: no verdict may take more than two CPU seconds or raise."""

from __future__ import annotations

import random
import resource
import time

import pytest

from tasks.answers.equivalence import verdict
from tasks.answers.extraction import extract_answer
from tests.answers.generated import hostile
from tests.hostile.trials import Trials

CPU_S = 2.0
GROWTH_KIB = 200 * 1024


def check(draw: random.Random) -> None:
    """Compare two hostile strings, and find an answer in a response with them."""
    first, second = hostile(draw), hostile(draw)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert verdict(first, second) == verdict(second, first)
    assert verdict(first, first).equal
    extract_answer(f"\\boxed{{{first}}} \\boxed {second}" * 3)
    assert time.process_time() - began < CPU_S, (first[:80], second[:80])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH_KIB, (first[:80], second[:80])


def test_hostile_answers_are_compared_within_their_limits(trials: Trials) -> None:
    trials.run("answers", 150, check)


@pytest.mark.hostile
@pytest.mark.timeout(1800)
def test_many_hostile_answers_are_compared_within_their_limits(trials: Trials) -> None:
    trials.run("answers", 10_000, check)
