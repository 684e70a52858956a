"""The rules: texts that each one rejects, and realistic problems that must pass."""

from __future__ import annotations

import pytest

from tasks.config import RuleSettings
from tasks.problems.rules import RULES, check
from tasks.rows import Reason

SETTINGS = RuleSettings()

REJECTED = {
    Reason.TOO_SHORT: ["What is 2 + 2?", " " * 40 + "Find x." + " " * 40],
    Reason.TOO_LONG: ["How many? " + "".join(f"Item {i} costs {i * i} dollars. " for i in range(100))],
    Reason.MULTIPLE_CHOICE: [
        "What is the sum of 3 and 4, doubled? (A) 12 (B) 13 (C) 14 (D) 15 (E) 16",
        "What is the value of $2^{10}$?\n(A) 1000\n(B) 1024\n(C) 2048",
        r"How many divisors has 12? $\textbf{(A)}\ 4 \qquad\textbf{(B)}\ 5 \qquad\textbf{(C)}\ 6$",
        "Which number below twenty is a prime? A. 9 B. 11 C. 15 D. 18",
        "What is the area of a square of side 3?\nA) 6\nB) 9\nC) 12\nD) 18",
        "The remainder of 100 divided by 7 equals (A) 1 (B) 2 (C) 3 (D) 4",
        "Which of the following numbers is divisible by nine: 117 or 118?",
        "Is the sum of two odd numbers always even? (a) yes (b) no",
    ],
    Reason.SEVERAL_QUESTIONS: [
        "Tom has 3 apples and eats one. How many are left? How many did he eat?",
        "A box holds 12 eggs. (a) Find the number of eggs in 5 boxes. (b) Find the number of boxes for 48 eggs.",
        "Let f(x) = x^2 + 1.\n1. Compute f(3).\n2. Compute f(f(2)).",
        "A tank holds 90 litres. Part A: How long does it take to fill? Part B: What does it cost?",
        "Is it possible that x + y = 3? What is the largest such x below 100?",
    ],
    Reason.PROOF: [
        "Prove that the square root of two is irrational.",
        "Let n be a positive integer. Show that n^2 + n is even.",
        "Determine all real solutions of x^2 = 2 and prove that there are no more.",
        "For all positive $x$ prove that $x + 1/x \\ge 2$. Find the case of equality.",
        "Prove or disprove: every even number above two is a sum of two primes.",
    ],
    Reason.NEEDS_FIGURE: [
        "In the figure, ABCD is a square. What is its area?",
        "What is the area of the region shown in the diagram?",
        "The graph below shows a parabola. Find its vertex.",
        "Find the length of the path. [asy] draw((0,0)--(1,1)); [/asy]",
        "Find the shaded area ![square](square.png) in square units.",
        "Refer to the accompanying diagram. How long is side AB of the triangle?",
        "What is the height? \\includegraphics{tower.png} Answer in metres.",
    ],
    Reason.NO_QUESTION: [
        "Tom has three apples and gives one of them to Ann.",
        "The sum of two numbers is ten, the product 21.",
    ],
    Reason.BAD_CHARACTERS: [
        "What is the sum of \ufffd and three, doubled?",
        "What is the sum of two and three,\x07 doubled?",
        "What is the sum of two and three,\ud800 doubled?",
        "一个袋子里有三个红球和五个白球，随机取出两个球，求两个球颜色相同的概率是多少？ Find it.",
    ],
    Reason.REPETITION: [
        "What is the sum of " + "one and two and " * 20 + "three?",
        "What is the value of aaaaaaaaaaaaaaaaaaaa plus one?",
    ],
}

ACCEPTED = [
    # points, vertices and formulas with A, B, C are not options
    "In triangle $ABC$, $AB = 13$, $BC = 14$ and $CA = 15$. Point D lies on BC. What is the length of the altitude?",
    "The points A (1, 2), B (4, 6) and C (7, 2) are given. Find the area of triangle ABC.",
    "Events satisfy $P(A) = 0.3$, $P(B) = 0.5$ and $P(C) = 0.2$. Compute $P(A) + P(B) + P(C)$.",
    "Find the sum of the areas of circle (A) and circle (B), whose radii are 3 and 4.",
    "Three tanks A, B and C hold 5, 6 and 7 litres. How many litres do they hold together?",
    # enumerated conditions are neither options nor parts
    "Find the number of functions f with these properties: (a) f(0) = 1; (b) f is increasing; (c) f(3) = 9.",
    "A sequence satisfies: (i) a_1 = 2; (ii) a_{n+1} = 3 a_n. Determine a_5.",
    "Cover the board so that (i) each domino covers two cells; (ii) no two overlap. How many dominoes are needed?",
    # one question with two question marks
    "What is the probability of rolling a 3? It can be written as m/n with m and n relatively prime. What is m + n?",
    'There are 15 "Where\'s Waldo?" books with 30 puzzles each. How many puzzles are there in total?',
    "A zoo has 21 penguins and twice as many bears? How many animals do they have?",
    "How much earlier does Abel reach the destination in minutes??",
    # similar words with another meaning
    "Records show that the team won three matches and lost two. How many matches did it play?",
    "Find the smallest positive integer n with n^2 > 50, or show that no such n exists.",
    "Jackson wants to improve his running. He runs 3 miles a day for a week. How many miles is that?",
    "Derek is trying to figure out how many movies are shown in 8 hours if each lasts 2 hours. How many?",
    "Rows 1 and 2 of an array of integers are shown below. 1 1, 1 3 1. What is the sum of the entries?",
    "There are 7 people in the picture and 4 of them wear hats. How many wear none?",
    "The points lie on the graph of y = x^2 + 1. What is the least value of y?",
    "Give your answer to two significant figures: what is 22 divided by 7?",
    # imperatives, and a question without a question mark
    "Compute the remainder when $7^{100}$ is divided by 5.",
    "Given that x + 1 = 3 and y = 2x, express x + y as an integer.",
    "Simplify the expression $\\frac{x^2-1}{x-1}$ for x other than 1.",
    "If there is a tax of 10% on every item how much did everything cost together.",
    # characters
    "Let α and β be the roots of x² − 5x + 6 = 0. Find α² + β².",
    "José’s café sells 12 crêpes at 3 € each. How many euros does it take in?",
    "Find the value of x.\n\n\tHere 2x + 6 = 20 holds.",
    # repetition that belongs to mathematics
    "Evaluate $1+1+1+1+1+1+1+1+1+1$ times 1000000000000000000000.",
]


@pytest.mark.parametrize(
    ("reason", "text"), [(reason, text) for reason, texts in REJECTED.items() for text in texts]
)
def test_an_unsuitable_text_is_rejected_for_its_reason(reason: Reason, text: str) -> None:
    failure = check(text, SETTINGS)
    assert failure is not None and failure.reason is reason and failure.detail


@pytest.mark.parametrize("text", ACCEPTED)
def test_a_sound_problem_passes(text: str) -> None:
    assert check(text, SETTINGS) is None


def test_every_rule_lets_a_plain_problem_pass_and_every_reason_is_covered() -> None:
    text = "A train covers 120 km in 2 hours. How many kilometres does it cover in 5 hours?"
    assert [rule(text, SETTINGS) for rule in RULES] == [None] * len(RULES)
    assert len(REJECTED) == len(RULES) + 1  # length has two reasons


def test_the_bounds_on_length_are_inclusive_and_are_settings() -> None:
    text = "What is 5 plus 6 plus 7 plus 8"  # 30 characters
    assert len(text) == 30 and check(text, SETTINGS) is None
    assert check(text, RuleSettings(min_chars=31)) is not None
    assert check(text, RuleSettings(max_chars=30)) is None
    assert check(text, RuleSettings(max_chars=29)) is not None


def test_the_share_of_repeated_word_3_grams_is_a_setting() -> None:
    text = "find the sum find the sum find the sum please"  # 8 3-grams, 4 distinct: half are repeats
    assert check(text, RuleSettings(max_repeated_share=0.5)) is None
    failure = check(text, RuleSettings(max_repeated_share=0.49))
    assert failure is not None and failure.reason is Reason.REPETITION and failure.detail.startswith("50%")


def test_the_first_violated_rule_gives_the_reason() -> None:
    failure = check("Prove it.", SETTINGS)
    assert failure is not None and failure.reason is Reason.TOO_SHORT
