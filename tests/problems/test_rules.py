"""The rules: texts that each one rejects, and realistic problems that must pass."""

from __future__ import annotations

from time import process_time

import pytest

from tasks.config import RuleSettings
from tasks.problems.rules import RULES, check
from tasks.rows import Reason

OURS = tuple(RULES)[2:]
SETTINGS = RuleSettings.model_validate(dict.fromkeys(OURS, True))

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
        "Choose the correct option for the product 4 * 5: a) 18 b) 20 c) 22 d) 24",
        "下列四个数中，最大的数是（ ）\nA.-2  B.0  C. 3  D.  -1/2",
        "How many of these numbers are prime: 21, 23, 27, 29? (A) 0 (B) 1 (C) 2 (D) 3 (E) 4",
        "Find the value of 6 times 7.\nOptions: 41, 42, 43",
        "Find the sum of the first ten numbers. [A] 45 [B] 55 [C] 65 [D] 50",
    ],
    Reason.SEVERAL_QUESTIONS: [
        "Tom has 3 apples and eats one. How many are left? How many did he eat?",
        "A box holds 12 eggs. (a) Find the number of eggs in 5 boxes. (b) Find the number of boxes for 48 eggs.",
        "Let f(x) = x^2 + 1.\n1. Compute f(3).\n2. Compute f(f(2)).",
        "A tank holds 90 litres. Part A: How long does it take to fill? Part B: What does it cost?",
        "Is it possible that x + y = 3? What is the largest such x below 100?",
        "Find the value of $x$. Also find the value of $y$ if $x+y=5$ and $x-y=1$.",
        "Solve the equation x^2 = 9 and find the sum of the first 5 squares.",
        "Find x if 2x = 10, then find y if y = 3x.",
        "A ball falls for 3 s. Calculate its speed. Calculate the height of the fall.",
        "Find: 1) the area of the rectangle; 2) its diagonal, given the sides 3 and 4.",
        "Compute the following: (a) $2^{10}$, (b) $3^5$ and (c) $5^3$.",
        "A line has slope 2. What is its angle with the axis? In addition, compute its distance from (1, 1).",
    ],
    Reason.PROOF: [
        "Prove that the square root of two is irrational.",
        "Let n be a positive integer. Show that n^2 + n is even.",
        "Prove or disprove: every even number above two is a sum of two primes.",
        "Let $x$ be a positive real number. Show $x + 1/x \\ge 2$.",
        "Let $ABC$ be a triangle. Establish that its altitudes meet in one point.",
        "Demonstrate that $\\sqrt{3}$ is irrational by infinite descent.",
        "Show there are infinitely many primes of the form 4k + 3.",
        "Use induction to show that 1 + 2 + ... + n = n(n+1)/2.",
        "Show the following: the sum of two even numbers is even.",
        "Your task is to prove that there are infinitely many primes.",
        "Give a direct proof of the identity $(a+b)^2 = a^2 + 2ab + b^2$.",
        "Verify the following identity: $(a-b)(a+b) = a^2 - b^2$.",
        "Is the sum of two odd numbers always even? Justify your answer.",
        "Determine, with proof, whether the series of reciprocals of the squares converges.",
        "Does every cubic polynomial have a real root? Why or why not?",
        "Explain why the product of two consecutive integers is even.",
    ],
    Reason.NEEDS_FIGURE: [
        "In the figure, ABCD is a square. What is its area?",
        "What is the area of the region shown in the diagram?",
        "The graph below shows a parabola. Find its vertex.",
        "In the diagram, how long is the path? [asy] draw(A--B--C); [/asy]",  # A, B and C are nowhere
        "In the diagram, how long is the path from A to B? [asy] [/asy]",
        "How long is the path in the square of side 4? [asy] draw((0,0)--(4,0)); draw((4,0)--",  # breaks off
        "How long is the diagonal? \\begin{tikzpicture}\\draw (0,0) -- (3,4); and then the text ends",
        'How long is the side AB? [asy] size(100); label(graphic("triangle.eps"), (0,0)); [/asy]',
        "How high is it? \\begin{tikzpicture}\\node at (0,0) {\\includegraphics{tower.png}};\\end{tikzpicture}",
        "How high is the tower? \\begin{figure}\\caption{The tower}\\end{figure} It is 30 m away.",
        "Find the shaded area ![square](square.png) in square units.",
        "Refer to the accompanying diagram. How long is side AB of the triangle?",
        "What is the height? \\includegraphics{tower.png} Answer in metres.",
        "As shown in Figure 1, the line cuts the circle. Find the length of $AB$.",
        "Find the area of the shaded region, given that the side of the square is 4.",
        "The table below shows the scores. What is their mean?",
        "Use the information in the table to find the mean of the data.",
        "Use the graph to find $f(2)$ for the function $f$.",
        "Look at the diagram. What is the angle ABC in degrees?",
        "The bar chart shows the sales. In which month were most sold?",
        "Find the area of the triangle shown. Its base is 4.",
        "Refer to Fig. 3: what is the value of the angle x?",
        "According to the graph, in which month was the price highest?",
        "The graph of $y = f(x)$ is shown below. What is $f(3)$?",
        "In the triangle pictured below, the base is 3. What is the height?",
        "As shown, AB is a diameter of circle O of radius 5. Find the length of AC.",
    ],
    Reason.NO_QUESTION: [
        "Tom has three apples and gives one of them to Ann.",
        "The sum of two numbers is ten, the product 21.",
        "Ann plans to sell her books and use the money to build a shed.",
        "A prime is a number which has exactly two divisors, and 7 is such a number.",
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
    "Find $a$ and $b$ so that the roots of $x^2+ax+b$ are (a) and (b) respectively, then give $a+b$.",
    # statements to be counted, with labels
    "How many of the following statements about 12 are true?\n(a) It is even.\n(b) It is a square.\n(c) It is a prime.",
    # one checkable answer, although a proof or a justification is wanted too
    "Determine all real solutions of $x^2 = 2$ and prove that there are no more.",
    "For all positive $x$ prove that $x + 1/x \\ge 2$. Find the case of equality.",
    "Show that the number of steps is finite, and determine its average over all 16 starts.",
    "Determine, with justification, all integers $k$ for which $k^2 < 10$.",
    "What is the largest area of a rectangle with perimeter 20? Justify your answer.",
    "How many steps are there in 7 flights of 12? Show your work.",
    "What is the smallest n such that n! > 1000? Explain your reasoning.",
    # numbered problems, points, and parts that the text itself answers
    "1. (5 points) Calculate: $\\frac{1}{2}+\\frac{1}{3}$ and give the result.",
    "Problem 3. Find the smallest positive integer $n$ with $n^2>50$.",
    "Part 0: What is 3 + 4?\nSolution: Add them.\nFinal answer: 7\n\nPart 1: What is the square of this sum?",
    "Let $F(A, B)$ be a function. How many are there? I.e., how many functions are of the form $F(A, B)=C$?",
    "Find the sum and write it in the form $a + b\\sqrt{2}$. What is $a + b$?",
    "Calculate $17 \\cdot 23$. Calculate without a calculator, please.",
    # drawings whose code is in the text, and tables and examples in the text
    "Find the length of the path. [asy] draw((0,0)--(1,1)); [/asy]",
    "[asy] draw((0,0)--(4,0)--(0,3)--cycle); [/asy] What is the perimeter of the triangle?",
    'In the diagram, what is AC? [asy] pair A=(0,0), C=(3,4); draw(A--C); label("$A$",A,S); label("$C$",C,N); [/asy]',
    'What is $x$, if the lines are parallel, as shown? [asy] draw((0,0)--(9,0)); label("$30^\\circ$", (1,1)); [/asy]',
    "The side is 4. What fraction is shaded? \\begin{tikzpicture}\\fill (0,0) -- (1,1) -- (0,1);\\end{tikzpicture}",
    "What is the area of the shaded region? [asy] fill(unitsquare, gray); [/asy]",
    "\\begin{figure}\\begin{tikzpicture}\\draw (0,0) rectangle (3,2);\\end{tikzpicture}\\end{figure} What is its area?",
    "The graph of $y=f(x)$ is shown below. Find $f(2)$. \\begin{asy} draw((0,1)--(4,9)); \\end{asy} Give an integer.",
    "A kite has vertices (0,7), (1,0), (12,-2) and (7,8). What is its area? [asy] draw((0,7)--(1,0)); [/asy]",
    "How many diagonals has a hexagon? [asy] draw(dir(0)--dir(60)); [/asy]",
    "Two circles of radii 3 and 4 touch, as shown. How far apart are their centres? [asy] draw(circle((0,0),3)); [/asy]",
    "How many rectangles have their corners on a 12-gon? The diagram below shows three of those. [asy] dot((0,0)); [/asy]",
    "The table below shows the scores.\n| Ann | Ben |\n| 3 | 5 |\nWhat is their mean?",
    "The corner squares of a 4 by 4 board are shaded. What is the area of the shaded region?",
    "Using the kitchen table as a desk, Ann writes 3 pages a day. How many does she write in a week?",
    "The numbers 1 to 9 fill a 3 by 3 grid. What is the sum of the numbers in the grid?",
    "A pyramid is drawn with a square base of side 6 and height 4. What is its volume?",
    "Give the answer in a table with 3 rows: what are the squares of 11, 12 and 13?",
    # other ways to ask
    "Rationalize the denominator: $\\frac{7}{\\sqrt{5}}$.",
    "Multiply $\\frac{2}{3}$ by $\\frac{4}{7}$ and reduce.",
    "Subtract the number of even digits from the number of digits.",
    "Distribute: $3 x(5 x-7)$ in the given ring",
    "Build up each fraction to the common denominator 12: $\\frac{1}{3}, \\frac{1}{4}$",
    "Halve the sum of the first twenty odd numbers.",
    "The solution set of the inequality $5 x - 6 \\ge 7$ is _____.",
    "If $x = 4$ solves the equation $x - 2 a = 0$, then the value of $a$ is",
    "Given $a=2^{0.5}, b=3^{0.5}, c=5^{0.5}$，put a,b,c in decreasing order.",
    "$V=\\mathbb{R}^{3}$ and $W$ has the basis $(1, 1, 0)$. $$W \\subset V$$ Extend this basis to one of $V$.",
    # formulas, strings and columns of tables repeat themselves
    "Find $n$ with $2 ^ { n + 1 } + 2 ^ { n + 1 } + 2 ^ { n + 1 } + 2 ^ { n + 1 } + 2 ^ { n + 1 } = 5$.",
    "What is the sum of the row? \\begin{tabular}{|cccccccccccccccccccccccc|} 1 & 2 \\end{tabular}",
    "What is the probability that ten tosses of a coin give HHHHHHHHHH?",
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
    assert [rule(text, SETTINGS) for rule in RULES.values()] == [None] * len(RULES)
    assert len(REJECTED) == len(RULES) + 1  # length has two reasons


def test_every_rule_is_a_setting_and_only_the_papers_two_are_on_by_default() -> None:
    switches = {name for name, field in RuleSettings.model_fields.items() if field.annotation is bool}
    assert switches == set(RULES)
    assert {name for name in RULES if getattr(RuleSettings(), name)} == {"length", "multiple_choice"}


@pytest.mark.parametrize(
    ("reason", "text"), [(reason, text) for reason, texts in REJECTED.items() for text in texts]
)
def test_the_detail_names_the_setting_that_switches_the_rule_off(reason: Reason, text: str) -> None:
    failure = check(text, SETTINGS)
    assert failure is not None
    name = failure.detail.removeprefix("rules.").partition(":")[0]
    assert name == ("length" if reason in (Reason.TOO_SHORT, Reason.TOO_LONG) else reason)
    without = check(text, SETTINGS.model_copy(update={name: False}))
    assert without is None or without.reason is not reason


def test_without_rules_every_text_passes() -> None:
    settings = RuleSettings.model_validate(dict.fromkeys(RULES, False))
    assert [check(text, settings) for texts in REJECTED.values() for text in texts] == [None] * sum(
        map(len, REJECTED.values())
    )


def test_a_setting_of_a_rule_changes_the_identity() -> None:
    identities = [
        RuleSettings.model_validate({name: False}).identity() for name in ("length", "multiple_choice")
    ]
    identities += [RuleSettings.model_validate({name: True}).identity() for name in OURS]
    assert all(one != RuleSettings().identity() for one in identities)
    assert len({str(one) for one in identities}) == len(RULES)


def test_the_bounds_on_length_are_inclusive_and_are_settings() -> None:
    text = "What is 5 plus 6 plus 7 plus 8"  # 30 characters
    assert len(text) == 30 and check(text, SETTINGS) is None
    assert check(text, RuleSettings(min_chars=31)) is not None
    assert check(text, RuleSettings(max_chars=30)) is None
    assert check(text, RuleSettings(max_chars=29)) is not None


def test_the_share_of_repeated_word_3_grams_is_a_setting() -> None:
    text = "find the sum find the sum find the sum please"  # 8 3-grams, 4 distinct: half are repeats
    assert check(text, RuleSettings(repetition=True, max_repeated_share=0.5)) is None
    failure = check(text, RuleSettings(repetition=True, max_repeated_share=0.49))
    assert failure is not None and failure.detail == "rules.repetition: 50% of the word 3-grams are repeats"


def test_the_first_violated_rule_gives_the_reason() -> None:
    failure = check("Prove it.", SETTINGS)
    assert failure is not None and failure.reason is Reason.TOO_SHORT


@pytest.mark.parametrize(
    "piece", ["\n", " ", "$", "(", "find: 1) a ", "[asy]", "the shown in the ", "__", "!["]
)
def test_the_time_does_not_explode_with_the_length_of_a_text(piece: str) -> None:
    text = piece * (20_000 // len(piece))
    start = process_time()
    for rule in RULES.values():
        rule(text, SETTINGS)
    assert (
        process_time() - start < 20
    )  # 0.2 s on a quiet machine; a pattern with three nested runs takes minutes
