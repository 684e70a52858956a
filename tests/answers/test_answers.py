"""Answers: extraction, normalisation, comparison, and robustness against pathological input."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.answers import mathverify
from tasks.answers.equivalence import Outcome, equivalent, normalise, verdict
from tasks.answers.extraction import extract_answer
from tasks.answers.grading import grade
from tasks.answers.grouping import settled

ROOT = Path(__file__).resolve().parents[2]

SAME = [
    # fractions, decimals, mixed numbers
    ("1/2", "0.5"),
    (r"\frac12", r"\dfrac{3}{6}"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    ("2 1/2", "5/2"),
    (r"-2\frac{1}{2}", "-2.5"),
    (r"0.\overline{3}", "1/3"),
    (r"0.1\overline{6}", "1/6"),
    (r"3\times10^4", "30,000"),
    ("1{,}000", "1000."),
    # percent
    ("10%", "0.1"),
    (r"12.5\%", "1/8"),
    ("50 percent", r"\frac{1}{2}"),
    # roots, constants, functions
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt2}"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"2\pi", "π*2"),
    ("8^{2/3}", "4"),
    (r"\log_2 8", "3"),
    (r"\ln(e^2)", "2"),
    (r"e^{i\pi}", "-1"),
    (r"\binom{5}{2}", "10"),
    ("10!", "3628800"),
    (r"\sqrt[3]{-8}", "-2"),
    # units
    ("5 cm", "5"),
    (r"5\text{ cm}", "5 centimeters"),
    ("100 cm", "1 m"),
    ("90 km/h", "25 m/s"),
    ("2 hours", "120 minutes"),
    ("3 square meters", "3 m^2"),
    ("2 liters", "2000 cm^3"),
    (r"\$0.50", "50 cents"),
    (r"45^{\circ}", "45 degrees"),
    ("12 apples", "12"),
    ("1010_2", "1010"),
    # equations
    ("x=10", "10"),
    ("x=10", "y = 10"),
    ("y=2x+1", "2x - y + 1 = 0"),
    ("2x^2+2y^2=8", "x^2+y^2=4"),
    ("x=1, y=2", "y=2, x=1"),
    (r"x = \pm 3", "x = 3 or x = -3"),
    # tuples, intervals, sets
    (r"\left( \frac{1}{2}, 3 \right)", "(0.5,3)"),
    ("[1,2)", r"\left[1, \tfrac42\right)"),
    (r"(-\infty,3)\cup(5,\infty)", r"(5, +\infty) \cup (-\infty, 3)"),
    ("x > 3", r"(3,\infty)"),
    (r"3<x\leq 5", "(3, 5]"),
    ("x<1 or x>2", r"(-\infty,1)\cup(2,\infty)"),
    (r"\{x \mid x \ge 0\}", r"[0,\infty)"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("1, 2", r"2 \text{ and } 1"),
    (r"1\pm\sqrt2", r"1+\sqrt{2}, 1-\sqrt{2}"),
    ("(1,2),(3,4)", "(3,4), (1,2)"),
    # expressions
    ("x^2+7x-10", "-10 + 7x + x^{2}"),
    ("(x+1)(x-1)", "x^2-1"),
    (r"\frac{x}{2}+1", r"\frac{x+2}{2}"),
    (r"\sin^2 x+\cos^2 x", "1"),
    ("f(x)=x^2", "x^2"),
    # words
    (r"\text{Yes}", "yes"),
    (r"\varnothing", r"\emptyset"),
    ("(A)", "A"),
]
DIFFERENT = [
    ("10%", "10"),
    ("0.1", "10"),
    ("1/3", "0.333333"),
    (r"2\pi", "6.28"),
    ("2", "-2"),
    ("5 cm", "5 m"),
    ("12 apples", "12 pears"),
    ("10 million", "10"),
    ("5x", "5"),
    ("5m", "5"),
    ("1010_2", "1010_3"),
    ("x=10", "x=11"),
    ("x=1, y=2", "x=2, y=1"),
    ("x=1, y=2", "1, 2"),
    ("x^2+y^2=4", "4"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", r"\{1,2\}"),
    ("(1,200)", "1200"),
    ("[1,2)", "[1,2]"),
    ("x>3", r"x \ge 3"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("((1,2),(3,4))", "((1,2),(4,3))"),
    ("x^2+7x-10", "x^2+7x+10"),
    ("x^2+1", "y^2+1"),
    ("A", "B"),
    ("east", "seat"),
    ("9^{9^{9^9}}", "9^{9^{9^8}}"),
]
BY_MATH_VERIFY = [
    (r"\frac{d}{dx}x^2", "2x", True),
    (
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        r"\begin{pmatrix}1&1\\1&1\end{pmatrix}+\begin{pmatrix}0&1\\2&3\end{pmatrix}",
        True,
    ),
    (r"\int_0^1 x\,dx", "1/3", False),
]
BOMBS = [
    r"9^{9^{9^9}}",
    r"9^{9^{9^9}} + x",
    r"99999999!",
    r"\frac{1}{" * 5000 + "2" + "}" * 5000,
    r"\frac{1}{" * 90 + "2" + "}" * 90,
    "(" * 450 + "1" + ")" * 450,
    "2^" * 300 + "2",
    "^".join(["34"] * 60),
    "{" * 1_000_000,
    "1+" * 480 + "x",
    r"\sqrt" * 190,
    r"\sqrt{" * 90 + "2" + "}" * 90,
    r"9^{9^{9^9}}\bmod 7",
    "\ud800",
    "",
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_equal_answers_are_recognised_in_both_directions(a: str, b: str) -> None:
    assert equivalent(a, b)
    assert equivalent(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_answers_are_distinguished_in_both_directions(a: str, b: str) -> None:
    assert not equivalent(a, b)
    assert not equivalent(b, a)


@pytest.mark.parametrize("trio", [("0.1", "10%", "10"), ("x=10", "10", "y=10"), ("(1,2)", "1,2", r"\{1,2\}")])
def test_known_intransitive_triples_of_math_verify_are_transitive_here(trio: tuple[str, str, str]) -> None:
    a, b, c = trio
    links = [equivalent(a, b), equivalent(b, c), equivalent(a, c)]
    assert sum(links) != 2


@pytest.mark.parametrize("text", [text for pair in SAME + DIFFERENT for text in pair])
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="019 .,xy=+-/^_\\{}()[]$%<>" + "\u202e\x00é", max_size=25))
def test_any_text_can_be_normalised_read_and_compared(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert equivalent(text, text)
    assert verdict(text, text).certain


def test_equivalent_spellings_are_normalised_to_one() -> None:
    assert normalise(r" $\dfrac12$. ") == r"\frac{1}{2}"
    assert normalise(r"\left( 1{,}000 ,\; \text{ab} \right)") == "(1000, ab)"
    assert normalise("+.5") == "0.5"
    assert normalise("{1,234,567}") == "1,234,567"  # a number or a list
    assert normalise("1,2") == normalise("1, 2") == "1, 2"
    assert normalise("x = 5") == "x=5"
    assert normalise("x + 5") == "x+5"
    assert normalise(r"5\text{ cm}") == "5 cm"
    assert normalise("\u202e12\u202c") == "12"
    assert normalise(r"a \geq b") == r"a\ge b"


# --- boxes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{ \left\{ 1 \right. }", r"\left\{ 1 \right."),
        (r"\boxed {7}", "7"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"<think>\boxed{1}</think> \boxed{2}", "2"),
        (r"\boxed{1}</think> nothing", None),
        (r"<think> \boxed{1}", None),
        (r"a</think> b <think> \boxed{1}", None),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed{}", None),
        (r"The answer is $\boxed 7$.", "7"),
        (r"it is $\boxed\frac12$", r"\frac12"),
        (r"\boxed\frac{1}{2}.", r"\frac{1}{2}"),
        (r"answer: \fbox{7}", "7"),
        (r"\framebox{x^2}", "x^2"),
        ("<|begin_of_box|>12<|end_of_box|>", "12"),
        (r"\boxed{5}. (The final answer is in \boxed{}.)", "5"),
        (r"\boxed{\frac{1}{3}} \approx \boxed{0.333}", r"\frac{1}{3}"),
        (r"the roots are $\boxed{-2}$ and $\boxed{1}$.", "-2, 1"),
        ("\\boxed{3}, \\boxed{5},\n\\boxed{7}", "3, 5, 7"),
        (r"first \boxed{42}, then \boxed{277}", "277"),
        (r"\boxed{7}. So \boxed{7}", "7"),
        (r"\boxed{  }", None),
        ("the answer is 42", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_balanced_box_after_the_thinking(response: str, answer: str | None) -> None:
    assert extract_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{" * 10_000 + "5" + "}" * 10_000, "5"),
        (r"\boxed{" * 10_000, None),
        (r"\boxed{" + "{" * 1_000_000, None),
        (r"\boxed{" + "{" * 500_000 + "}" * 500_000 + "}", "{" * 500_000 + "}" * 500_000),
    ],
)
def test_pathological_boxes_take_linear_time(response: str, answer: str | None) -> None:
    begin = time.process_time()
    assert extract_answer(response) == answer
    assert time.process_time() - begin < 20  # a scan for each brace takes hours


def test_grading_uses_the_box_and_accepts_a_missing_percent_sign() -> None:
    assert grade(r"so \boxed{\frac{2}{4}}", "0.5")
    assert not grade("so 0.5", "0.5")
    assert not grade(r"\boxed{0.4}", "0.5")
    assert grade(r"\boxed{25\%}", "25")
    assert grade(r"\boxed{25}", "25%")
    assert grade(r"\boxed{25\%}", "0.25")
    assert not grade(r"\boxed{26\%}", "25")
    assert grade(r"\boxed{x=1, y=2}", "1, 2")
    assert not grade(r"\boxed{x=1, y=2}", "x=1, x=2")
    assert not grade(r"\boxed{f(x)=x, f(8x)=-x}", "f(x)=x, f(x)=-x")


# --- decisions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "decision"),
    [
        ("1/2", "0.5", True),
        ("1/2", "0.6", False),
        ("x = 1", "2", False),
        ("(1,2)", "(1,3)", False),
        ("[1,2]", r"[1,\infty]", False),
        ("5 cm", "6 cm", False),
        ("5 cm", "6", None),  # the bare number may be in another unit
        ("(1,2)", r"\{1,2\}", None),
        ("x+1", "x+2", False),
        ("x+1", "t+1", None),
        ("yes", "no", None),
    ],
)
def test_only_what_is_proved_is_found_different_without_a_judge(
    a: str, b: str, decision: bool | None
) -> None:
    for pair in ((a, b), (b, a)):
        assert settled({pair: verdict(*pair)}).decisions[pair] is decision


# --- Math-Verify -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "same"), BY_MATH_VERIFY)
def test_unfamiliar_notation_goes_to_math_verify_in_both_directions(a: str, b: str, same: bool) -> None:
    assert equivalent(a, b, timeout_s=30) is same
    assert equivalent(b, a, timeout_s=30) is same


def test_sixteen_threads_get_the_verdicts_of_one() -> None:
    pairs = [
        (rf"\sqrt{{{n}}}+\sqrt{{{n + 1}}}", rf"\sqrt{{{2 * n + 1}+2\sqrt{{{n * (n + 1)}}}}}")
        for n in range(2, 60)
    ]
    pairs += [
        (rf"(1+\sqrt{{{n}}})^{{40}}", rf"(1+\sqrt{{{n}}})^{{40}}+(1-\sqrt{{{n}}})^{{40}}")
        for n in range(2, 60)
    ]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda pair: verdict(*pair).equal, pairs))
    assert found == [True] * 58 + [False] * 58


@pytest.fixture(scope="module")
def warm() -> None:
    """Start a Math-Verify worker in advance, which takes seconds on a busy machine."""
    assert mathverify.verify(r"\sum_{k=1}^{3} k", "6", 60)


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: ascii(bomb[:12]))
def test_a_pathological_answer_costs_little_time_and_never_raises(bomb: str) -> None:
    begin = time.process_time()
    assert not verdict(bomb, "17").equal
    assert verdict(bomb, bomb + "+1").outcome is not Outcome.EQUAL
    assert time.process_time() - begin < 10


@pytest.mark.usefixtures("warm")
def test_a_hanging_worker_is_terminated_and_replaced() -> None:
    assert mathverify.verify(r"\sum_{k=1}^{10^9} k^k", "17", 0.5) is None
    assert mathverify.verify(r"\sum_{k=1}^{5} k", "15", 30) is True


OWNER = r"""
import threading, time
from tasks.answers import mathverify
mathverify.verify(r"\sum_{k=1}^{3} k", "6", 60)
worker = mathverify._pool.idle[0].process.pid
threading.Thread(target=mathverify.verify, args=(r"\sum_{k=1}^{10^9} k^k", "17", 1), daemon=True).start()
time.sleep(0.2)
print(worker, flush=True)
time.sleep(60)
"""


def test_a_busy_worker_does_not_outlive_a_killed_owner() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        worker = int(owner.stdout.readline())
        assert _runs(worker)
        owner.kill()
    deadline = time.monotonic() + 60.0
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)


@pytest.mark.usefixtures("warm")
def test_a_forked_process_starts_its_own_workers() -> None:
    before = mathverify._pool
    child = os.fork()
    if child == 0:
        os._exit(0 if mathverify._pool is not before and not mathverify._pool.idle else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert mathverify.verify(r"\sum_{k=1}^{3} k", "7", 60) is False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
