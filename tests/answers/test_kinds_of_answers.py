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
    "combinations": [
        ("C_5^2", "10"),
        ("A_5^2", "20"),
        (r"{}_{10}C_{3}", "120"),
        (r"C_n^2", r"\frac{n(n-1)}{2}"),
    ],
    "determinants and transposes": [
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"),
        (r"\begin{vmatrix}a&b\\c&d\end{vmatrix}", "ad-bc"),
        (r"(1,2)^T", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ("[[1,2],[3,4]]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    ],
    "cases of a function": [
        (
            r"\begin{cases}1&x>0\\0&x\le0\end{cases}",
            r"\begin{cases}0,&\text{if }x\le0,\\1,&\text{if }x>0.\end{cases}",
        ),
        (
            r"\begin{cases}2^n & n \text{ even}\\ 3^n & n\text{ odd}\end{cases}",
            r"\begin{cases}2^n & \text{if } n \text{ is even}\\ 3^n & \text{if }n\text{ is odd}\end{cases}",
        ),
    ],
    "conditions on several unknowns": [("a>0, b<0", "b<0, a>0"), (r"x\le y", r"y\ge x"), ("a<x<b", "(a,b)")],
    "progressions of integers": [
        (r"\frac{\pi}{3}+2k\pi, k\in\mathbb{Z}", r"\frac{7\pi}{3}+2n\pi, n\in\mathbb Z"),
        (r"n=2k+1, k\in\mathbb{Z}", r"2k-1, k\in\mathbb{Z}"),
        (r"x\equiv3\pmod7", "7k+3"),
        (r"x\equiv\pm1\pmod8", r"x\equiv 1,7\pmod 8"),
        (r"\{2k:k\in\mathbb{Z}\}", r"\{2n\mid n\in\mathbb{Z}\}"),
    ],
    "constants of integration": [("x^2+C", "x^2+c"), ("C_1e^x+C_2e^{-x}", "c_1e^{-x}+c_2e^{x}")],
    "rounding of whole numbers": [
        (r"\lfloor\frac{n+1}{2}\rfloor", r"\lceil\frac n2\rceil"),
        (r"\lfloor\frac{n^2}{4}\rfloor", r"\lfloor\frac{n}{2}\rfloor\lceil\frac{n}{2}\rceil"),
    ],
    "repeating digits": [
        (r"0.\dot{1}\dot{2}", "4/33"),
        (r"0.\dot{1}4285\dot{7}", "1/7"),
        (r"0.1\dot6", "1/6"),
    ],
    "angles": [
        (r"\arcsin\frac12", r"30^\circ"),
        (r"180^\circ-2x", "180-2x"),
        (r"30^\circ 15'", r"30.25^\circ"),
    ],
    "products of units": [
        (r"3\times10^8\,\mathrm{m\,s^{-1}}", r"3\times 10^8 \text{ m/s}"),
        (r"5\,\text{kg}\cdot\text{m}^2/\text{s}^2", "5 J"),
        ("5 N·m", "5 J"),
        (r"9.8 \frac{m}{s^2}", "9.8 m/s^2"),
        (r"5\sqrt{3}\text{ m}", r"5\sqrt3"),
        ("3平方厘米", r"3\text{ cm}^2"),
        ("1.2 million dollars", r"\$1,200,000"),
    ],
    "points and chains": [
        ("A(1,2)", "(1,2)"),
        ("A(1,2), B(3,4)", "B(3,4), A(1,2)"),
        ("p=q=3", "p=3,q=3"),
        ("t(0,4]", "(0,4]"),
        ("]0,1]", "(0,1]"),
        (r"(1,2)\cup(3,4)", "(1,2),(3,4)"),
    ],
    "times of day": [("3:30 PM", "15:30"), ("noon", "12:00 pm"), ("3 o'clock", "3:00")],
    "choices": [("Option A", "A"), ("ABD", "A,B,D"), (r"\text{(C) and (D)}", "C, D"), ("答案：A", "A")],
    "words": [
        ("one hundred and five", "105"),
        ("one and a half", "1.5"),
        ("twenty-five percent", r"25\%"),
        ("negative 5", "-5"),
        ("无解", r"\emptyset"),
        ("there are no such integers", "no solution"),
        ("是", "yes"),
    ],
    "remarks": [(r"\frac12 \text{ when } x=1", "0.5"), (r"k=3\text{ only}", "3"), (r"\ge 5", r"x\ge5")],
    "bases": [("(1010)_2", "1010_2"), (r"1010\text{ base }2", "1010_2")],
}
DIFFERENT = {
    "combinations": [("C_5^2", "25"), ("C_1^2", "C_1^3")],
    "determinants and transposes": [
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}^T", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
        ("x^T", "x"),
    ],
    "cases of a function": [
        (r"\begin{cases}2&x>0\\3&x\le0\end{cases}", r"\begin{cases}5&x>0\\7&x\le0\end{cases}"),
        (r"\begin{cases}0&n=1\\1&n=2\end{cases}", r"\begin{cases}0&n=2\\1&n=1\end{cases}"),
        (r"2\text{ if }n=1\text{ and }3\text{ if }n=2", "2"),
    ],
    "conditions on several unknowns": [
        ("a>0, b<0", "a<0, b>0"),
        ("x>2, y>2", "x>2"),
        (r"x>2\text{ and }y<3", "2<x<3"),
        (r"x>1\text{ or }y>1", r"x>1\text{ and }y>1"),
        (r"x=1\text{ or }y=2", "x=1,y=2"),
        (r"x^2\text{ for }x>0", r"x^2\text{ for }x<0"),
        (r"\int f<3", r"\int f>3"),
        ("xy>1", r"\frac{1}{xy}>1"),
    ],
    "progressions of integers": [
        (r"\frac{\pi}{3}+2k\pi, k\in\mathbb{Z}", r"\frac{4\pi}{3}+2n\pi, n\in\mathbb{Z}"),
        (r"2k+1, k\in\mathbb{N}", r"2k-1, k\in\mathbb{N}"),
        ("4n+1", "4n-3"),
        (r"x\equiv3\pmod7", "7k+4"),
    ],
    "constants of integration": [("x^2+C", "x^2"), ("x^2+C", "x^2+D"), ("C_1e^x", "C_1e^{2x}")],
    "rounding of whole numbers": [
        (r"\lfloor\frac{n}{1000}\rfloor", "0"),
        (r"\lfloor x\rfloor", "x"),
        (r"\gcd(n,17)", "1"),
        (r"n\bmod 20", "n"),
    ],
    "sets of one tuple": [(r"\{(1,2)\}", r"\{1,2\}"), (r"\{[1,2]\}", r"\{1,2\}")],
    "arguments of functions": [
        ("f(x,y)=x+2y", "f(y,x)=x+2y"),
        ("f(x,y)=x+2y", "f(a,b)=2a+b"),
    ],
    "terms of a sequence": [("a_1=1,a_2=2", "a_1=2,a_2=1")],
    "times of day": [("3:30 AM", "15:30"), ("2:05", "2:5"), ("noon", "midnight")],
    "numbers in sentences": [
        (r"5\text{ (rejected)}", "5"),
        ("multiples of 3", "3"),
        ("divisible by 3", "3"),
        ("all except 3", "3"),
        ("5 and above", "5"),
        ("two and three", "5"),
    ],
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
    "quantities in words": [
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
