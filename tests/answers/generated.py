"""Random answers: expressions, rewritings that change nothing, corruptions of one character, hostile strings."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import sympy

NAMES = "xyab"
FUNCTIONS = (
    ("\\sin", sympy.sin), ("\\cos", sympy.cos), ("\\arctan", sympy.atan), ("\\ln", sympy.log),
)  # fmt: skip
CHARACTERS = "+-*/^_{}()[],.=0123456789xyna\\ %$|<>!"


def expression(draw: random.Random, depth: int, names: str = "") -> tuple[str, sympy.Expr]:
    """Return an expression of at most the given depth: in LaTeX, fully bracketed, and built in sympy."""
    if depth == 0 or draw.random() < 0.15:
        return _leaf(draw, names)
    (first, x), (second, y) = (expression(draw, depth - 1, names) for _ in range(2))
    form = draw.randrange(9)
    if form == 0:
        return f"({first}+{second})", x + y
    if form == 1:
        return f"({first}-{second})", x - y
    if form == 2:
        return f"({first})\\cdot({second})", x * y
    if form == 3:
        return f"\\frac{{{first}}}{{{second}}}", x / y
    if form == 4:
        power = draw.randint(2, 3)
        return f"({first})^{{{power}}}", x**power
    if form < 7:
        shift = draw.randint(1, 5)
        return f"\\sqrt{{({first})^{{2}}+{shift}}}", sympy.sqrt(x**2 + shift)
    name, function = draw.choice(FUNCTIONS)
    return f"{name}\\left({first}\\right)", function(x)


def _leaf(draw: random.Random, names: str) -> tuple[str, sympy.Expr]:
    if names and draw.random() < 0.6:
        name = draw.choice(names)
        return name, sympy.Symbol(name)
    top, bottom = draw.randint(1, 12), draw.randint(2, 9)
    return draw.choice(
        [
            (str(top), sympy.Integer(top)),
            (f"\\frac{{{top}}}{{{bottom}}}", sympy.Rational(top, bottom)),
            ("\\pi", sympy.pi),
        ]
    )


GOLDS = (
    r"\frac{1}{2}",
    "12",
    "-7",
    r"\frac{3\sqrt{5}}{4}",
    r"2\pi",
    "(3,-2)",
    r"[1,\infty)",
    r"\{1,2,3\}",
    "x^2+3x-4",
    r"\sqrt{2}+\sqrt{3}",
    "y=2x+1",
    "0.125",
    "3:4",
    r"\frac{n(n+1)}{2}",
    r"\binom{7}{3}",
    r"e^{2}-1",
    r"2^{n+1}-1",
    r"\ln 2",
    "5,-3",
    r"\frac{\pi}{6}",
    "1024",
    r"(2,3)\cup(5,7)",
    r"\sin x",
    "x<5",
    r"4\sqrt[3]{2}",
    "3+4i",
    r"\frac{x+1}{x-1}",
    r"10^{6}",
    r"\log_2 5",
    "17",
)


def _spaced(gold: str) -> str:
    return re.sub(r"([-+=<,])", r" \1 ", gold)


REWRITINGS: dict[str, Callable[[str], str]] = {
    "blanks around": lambda a: f"  {a}  ",
    "spaces": _spaced,
    "dollars": lambda a: f"${a}$",
    "inline math": lambda a: f"\\({a}\\)",
    "display math": lambda a: f"\\[{a}\\]",
    "dfrac": lambda a: a.replace("\\frac", "\\dfrac"),
    "tfrac": lambda a: a.replace("\\frac", "\\tfrac"),
    "braces around": lambda a: f"{{{a}}}" if "," not in a else a,
    "left and right": lambda a: a.replace("(", "\\left(").replace(")", "\\right)"),
    "big brackets": lambda a: a.replace("(", "\\bigl(").replace(")", "\\bigr)"),
    "final full stop": lambda a: f"{a}.",
    "colour": lambda a: f"\\color{{red}}{{{a}}}" if "," not in a else a,
    "textcolor": lambda a: f"\\textcolor{{blue}}{{{a}}}" if "," not in a else a,
    "displaystyle": lambda a: f"\\displaystyle {a}",
    "large": lambda a: f"\\large {a}",
    "boxed again": lambda a: f"\\boxed{{{a}}}" if "{" not in a else a,
    "bold": lambda a: f"\\mathbf{{{a}}}" if "{" not in a and not re.search("[a-z]", a) else a,
    "quad": lambda a: f"{a}\\quad",
    "thin space": lambda a: f"\\,{a}",
    "negative space": lambda a: f"{a}\\!",
    "tilde": lambda a: f"~{a}",
    "empty text": lambda a: f"{a}\\text{{ }}",
    "markdown": lambda a: f"**{a}**",
    "the answer is": lambda a: f"The answer is {a}",
    "therefore": lambda a: f"\\therefore {a}",
    "full-width digits": lambda a: (
        a.translate({48 + d: 0xFF10 + d for d in range(10)}) if "\\" not in a else a
    ),
    "unicode minus": lambda a: a.replace("-", "−"),
    "unicode pi": lambda a: a.replace("\\pi", "π"),
    "braced exponent": lambda a: re.sub(r"\^(\d)", r"^{\1}", a),
    "line break": lambda a: a.replace("+", "\n+"),
    "zero-width space": lambda a: "\u200b" + a,
    "one as a factor": lambda a: f"1\\cdot {a}" if re.fullmatch(r"\d+|\\frac\{1\}\{2\}|\\ln 2", a) else a,
}


def corrupted(gold: str, draw: random.Random) -> str:
    """Change, insert or remove one character."""
    place = draw.randrange(len(gold))
    return gold[:place] + draw.choice(["", draw.choice(CHARACTERS)]) + gold[place + draw.randrange(2) :]


def hostile(draw: random.Random) -> str:
    """Return a string that is meant to be slow: towers, nests, long numbers, many signs, roots, sums, noise."""
    n = draw.choice([3, 10, 60, 300, 900])
    digits = str(draw.randint(2, 99))
    forms = [
        lambda: "^".join([digits] * min(n, 300)),
        lambda: "{" * n + digits + "}" * n,
        lambda: "(" * n + digits + ")" * draw.choice([n, n - 1]),
        lambda: digits + "!" * draw.randint(1, n),
        lambda: f"{digits * min(n, 400)}^{{{digits * min(n, 200)}}}",
        lambda: "\\sqrt{" * n + digits + "}" * n,
        lambda: "\\pm " * min(n, 40) + digits,
        lambda: ",".join(f"\\pm\\sqrt[{draw.randint(2, 97)}]{{a^{{{draw.randint(2, 900)}}}}}" for _ in range(min(n, 30))),
        lambda: "+".join(f"\\sqrt[{draw.randint(2, 12)}]{{{draw.randint(2, 99)}}}" for _ in range(min(n, 40))),
        lambda: f"\\sum_{{k=1}}^{{{digits * min(n, 20)}}} k^{{k}}",
        lambda: f"\\binom{{{digits * min(n, 30)}}}{{{digits}}}",
        lambda: f"({'+'.join(NAMES)})^{{{n}}}",
        lambda: "(1+x)" * min(n, 150),
        lambda: f"\\sin({digits * min(n, 300)})" + "^2" * min(n, 20),
        lambda: "\\frac{1}{" * min(n, 200) + "x" + "}" * min(n, 200),
        lambda: f"e^{{e^{{e^{{{digits}}}}}}}" + f"+10^{{-{digits * 2}}}",
        lambda: f"{digits}e{'9' * draw.randint(1, 8)}",
        lambda: "|" * n + "x" + "|" * n,
        lambda: ", ".join(str(draw.randint(0, 9)) for _ in range(n)),
        lambda: "x=" * n + digits,
        lambda: "1,2,\\ldots," + digits * min(n, 8),
        lambda: f"\\cos(\\frac{{\\pi}}{{{draw.randint(3, 9999)}}})^{{{n}}}",
        lambda: "".join(draw.choice(CHARACTERS + "éπ√∞\u202e\x00\ud800") for _ in range(n)),
    ]  # fmt: skip
    return draw.choice(forms)()
