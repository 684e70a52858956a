"""One group of cases for each kind of answer: pairs that are equal, and pairs that differ."""

from __future__ import annotations

import pytest

from tasks.answers.equivalence import Outcome, verdict
from tasks.answers.verdicts import Basis

EQUAL = {
    "huge numbers": [
        ("2^{100000}", "4^{50000}"),
        ("2^{2^{100}}", "4^{2^{99}}"),
        (r"2^{10000000}", r"2\cdot 2^{9999999}"),
    ],
    "nested radicals": [
        (r"\sqrt{4+2\sqrt3}", r"1+\sqrt3"),
        (r"\sqrt{11+6\sqrt2}", r"3+\sqrt2"),
        (r"\sqrt[3]{7+5\sqrt2}", r"1+\sqrt2"),
    ],
    "trigonometric values": [
        (r"\tan 15^\circ", r"2-\sqrt3"),
        (r"\cos\frac{\pi}{5}", r"\frac{1+\sqrt5}{4}"),
        (r"e^{i\pi}+1", "0"),
    ],
    "logarithms": [
        (r"\log_4 8", r"\frac32"),
        (r"\frac{\ln 3}{\ln 2}", r"\log_2 3"),
        (r"\log 2+\log 3", r"\log 6"),
    ],
    "exponents": [
        ("2^{n+1}", r"2\cdot 2^n"),
        ("4^n", "2^{2n}"),
        (r"e^{x+y}", "e^x e^y"),
        (r"\sqrt{1/n}", r"\frac{1}{\sqrt n}"),
    ],
    "statements": [
        ("35+70=105", "105"),
        (r"\binom{10}{3}=120", "120"),
        ("-2+5-3=-0", "0"),
        (r"\log_8 4=\frac23", r"\frac23"),
    ],
    "scientific notation": [
        ("1e-6", "0.000001"),
        ("1.5E3", "1500"),
        ("3.8 x 10^{5}", "380000"),
        ("7.5e7", r"7.5\times 10^7"),
    ],
    "sums": [
        (r"\sum_{i=1}^{10} i", "55"),
        (r"\prod_{k=1}^{5} k", "120"),
        (r"F_n=\sum_{k=0}^{n-1}F_kF_{n-k-1}", r"F_n=\sum_{j=0}^{n-1}F_{n-j-1}F_j"),
    ],
    "factorials": [
        ("5!!", "15"),
        (r"\frac{10!}{3!7!}", r"{10 \choose 3}"),
        (r"\frac{(2n)!}{n!n!}", r"\binom{2n}{n}"),
    ],
    "units": [
        ("48g", "48"),
        ("€77", "77"),
        ("-10°F", "-10"),
        ("525 calories/day", "525"),
        ("5bags", "5"),
        ("300分钟", "300"),
        ("72 Mb/h", "72"),
        (r"6.67\times 10^{-11}\mathrm{~N}", r"6.67\times 10^{-11}"),
        (r"\$3 million", "3000000"),
        ("28 pct", r"28\%"),
        ("2:00 pm", "2:00 p.m."),
    ],
    "names": [
        ("c_{1}e^{x}", "c_1 e^x"),
        (r"x_{1}=\frac12,\quad x_{2}=3", r"3,\frac12"),
        (r"(x,y)=(1,2) \text{ or } (2,1)", "(1,2),(2,1)"),
        ("x=1,y=2;x=3,y=4", "x=3,y=4;x=1,y=2"),
        (r"V_1:V_2=11:21", "11:21"),
        (r"S_{MBCN}:S=7:32", "7:32"),
    ],
    "regions": [
        ("-1<k<1", "|k|<1"),
        (r"1\le|z|\le\frac32", r"[-\frac32,-1]\cup[1,\frac32]"),
        (r"x\ne -4", r"(-\infty,-4)\cup(-4,\infty)"),
        (r"(1,2]\cup(2,3)", "(1,3)"),
        ("x<1", "-x>-1"),
        (r"\text{all real numbers except } 2", r"x \neq 2"),
    ],
    "chains": [("a<b<c", "c>b>a"), ("x=5+5+1=7=11", "11")],
    "signs": [
        (r"\pm1\pm i", "1+i,1-i,-1+i,-1-i"),
        (r"(\pm3,0)", "(3,0),(-3,0)"),
        (r"3\pm2\sqrt2", r"3\mp2\sqrt2"),
    ],
    "progressions": [
        (r"1+2+\cdots+n", r"\frac{n(n+1)}{2}"),
        (r"1+3+5+\dots+(2n-1)", "n^2"),
        ("9999.857142857143 or 9999 6/7", r"9999\frac67"),
        (r"1,2,\dots,10", "1,2,3,4,5,6,7,8,9,10"),
    ],
    "vectors": [(r"2\mathbf{i}+3\mathbf{j}", "(2,3)"), (r"\begin{matrix}3\\7\end{matrix}", "3,7")],
    "environments": [(r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.", "x=1,y=2")],
    "quoted quantities": [('"5700 seconds" or "95 minutes"', "95 minutes")],
}
DIFFERENT = {
    "high powers": [
        ("x^{2023}+1", "x^{2023}"),
        ("2^{7000}-1", "2^{7000}"),
        ("2^{100000}", "2^{100000}+1"),
        ("2024!", "2024!+1"),
    ],
    "small numbers": [
        (r"\frac{\pi}{2^{2020}}", r"\frac{\pi}{2^{2021}}"),
        ("e^{-120}", "0"),
        ("1-e^{-100}", "1"),
        ("2^n+10^{-45}", "2^n"),
    ],
    "close numbers": [
        (r"\sqrt{10^{40}+1}", "10^{20}"),
        (r"(2+\sqrt3)^{100}", r"(2+\sqrt3)^{100}+(2-\sqrt3)^{100}"),
        ("2", "2.0000000001"),
    ],
    "statements": [("2+3=5", "2+3=6"), (r"\log_8 4=\frac23", r"\log_8 4=\frac28")],
    "identities": [(r"\sin 2x=2\sin x\cos x", r"\sin 2x=3x"), ("2(x+1)=2x+2", "x=1+x^2")],
    "notation": [
        ("32, 349", "32349"),
        ("0,555", "555"),
        ("1e-6", "e-6"),
        ("0.1(6)", "0.6"),
        ("3!!", "720"),
        ("2e3", r"2e\cdot3"),
        ("0.333...", "0.333"),
    ],
    "words": [
        ("3 thousandths", "3"),
        ("5 below zero", "5"),
        ("about 7", "7"),
        ("12 remainder 3", "12"),
        (r"15\% \text{ decrease}", r"15\% \text{ increase}"),
    ],
    "functions": [
        ("f(0)", "0"),
        ("f(2)", "2f"),
        ("I(0)", "0"),
        (r"\lfloor n/2\rfloor", r"\frac n2"),
        (r"\max(a,b)", r"\min(a,b)"),
    ],
    "derivatives": [(r"\frac{\partial f}{\partial x}", r"\frac{\partial f}{\partial y}")],
    "lists": [
        ("1,1,2", "1,2,2"),
        ("19, 46, and 82", "21, 36, and 82"),
        ("x=1,y=2;x=3,y=4", "x=1,y=4;x=3,y=2"),
        ("(p,q)=(3,2)", "(2,3)"),
    ],
    "intervals": [
        ("[0,9)", "[0,1)"),
        (r"[\frac12,\frac43]", r"[\frac43,\frac12]"),
        (r"(2,12)\cup(12,102)", "(2,102)"),
        ("[1,2]", r"[1,\infty]"),
    ],
    "times and ratios": [("12:00", "1:00"), ("2:1", "1:2"), ("10:30 am", "10:30 pm")],
    "bases": [("1112112_3", "1112112_4"), ("-11_2", "11_2"), ("0.1_2", "0.1_3")],
    "residues": [(r"3\pmod 7", r"3\pmod 5"), (r"6\mid n", r"3\mid n")],
    "equations": [("x^2=4", "x=2"), ("3x+2y=6", "6x+4y=6"), ("y=2x", "x=2y")],
    "infinity": [(r"\infty", r"-\infty"), (r"\infty", "10^{1000}")],
    "sums": [(r"\sum_{k=1}^{n} k^2", r"\sum_{k=1}^{n} k"), (r"1+2+\cdots+n", r"1+2+\cdots+2n")],
}
PROVED = (
    "huge numbers",
    "nested radicals",
    "trigonometric values",
    "exponents",
    "high powers",
    "small numbers",
    "close numbers",
)


def cases(groups: dict[str, list[tuple[str, str]]]) -> list[tuple[str, str, str]]:
    return [(kind, *pair) for kind, pairs in groups.items() for pair in pairs]


@pytest.mark.parametrize(("kind", "a", "b"), cases(EQUAL))
def test_equal_answers_of_each_kind(kind: str, a: str, b: str) -> None:
    found = verdict(a, b)
    assert found.equal and found == verdict(b, a)
    assert kind not in PROVED or found.basis is Basis.PROOF


@pytest.mark.parametrize(("kind", "a", "b"), cases(DIFFERENT))
def test_different_answers_of_each_kind(kind: str, a: str, b: str) -> None:
    found = verdict(a, b)
    assert not found.equal and found == verdict(b, a)
    assert kind not in PROVED or found.certain


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("2^{2^{100}}", "2^{2^{100}}+1"),
        ("1-e^{-10000}", "1"),
        (r"\frac{1}{x-x}", "1"),
        ("9^{9^{9^9}}", "9^{9^{9^8}}"),
    ],
)
def test_what_the_precision_cannot_separate_is_undecided_and_never_equal(a: str, b: str) -> None:
    assert verdict(a, b).outcome is Outcome.UNDECIDED
