r"""Normalisation of the spelling of an answer in LaTeX or plain text.

`normalise` changes only the spelling of an answer, never its meaning: units, percent signs and `x =` are kept. The
meanings of two differently spelled answers are compared in `tasks.answers.meaning`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

MAX_LENGTH: Final = 1000
"""Longer answers (in characters) are compared as strings only."""

_CHARACTERS: Final = str.maketrans({
    "−": "-", "–": "-", "‐": "-", "×": "\\cdot ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "/", "π": "\\pi ",
    "∞": "\\infty ", "√": "\\sqrt ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∪": "\\cup ", "∩": "\\cap ",
    "∈": "\\in ", "∅": "\\emptyset ", "±": "\\pm ", "°": "^\\circ ", "²": "^2", "³": "^3", "½": "\\frac{1}{2}",
    "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "’": "'", "‘": "'",
    "“": '"', "”": '"', "\xa0": " ", "\u202f": " ", "\u2009": " ", "ℝ": "\\mathbb{R}",
})  # fmt: skip

_RENAMED: Final = {
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac", "leq": "\\le", "leqslant": "\\le", "geq": "\\ge",
    "geqslant": "\\ge", "neq": "\\ne", "lt": "<", "gt": ">", "times": "\\cdot", "ast": "\\cdot", "div": "/",
    "varnothing": "\\emptyset", "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "langle": "(",
    "rangle": ")", "lparen": "(", "rparen": ")", "degree": "^\\circ", "colon": ":", "vert": "|", "lvert": "|",
    "rvert": "|", "dbinom": "\\binom", "tbinom": "\\binom", "lor": " or ", "land": " and ",
    "left": "", "right": "", "big": "", "Big": "", "bigg": "", "Bigg": "", "bigl": "", "bigr": "", "Bigl": "",
    "Bigr": "", "displaystyle": "", "textstyle": "", "limits": "", "quad": " ", "qquad": " ", "thinspace": " ",
    "enspace": " ", "hspace": " ", "space": " ",
}  # fmt: skip

_COMMAND: Final = re.compile(r"\\([A-Za-z]+)")
_WRAPPER: Final = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname|boldsymbol|emph|bm)"
    r"\s*\{([^{}]*)\}"
)

# Applied in this order. An escaped backslash (a line break in a matrix) does not start a command.
_REWRITES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\d)(?:\{,\}|\\,|,?\\!)(?=\d{3}(?!\d))", ""),  # 1{,}000  1\,000  1,\!000
        (r"(?<!\\)\\[,;:>~ ]|~", " "),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[()\[\]]|(?<!\\)\$", ""),
        (r"(?<!\\)\\%| ?\b(?:percent|per cent)\b", "%"),
        (r"\^\{ *\\circ *\}|(?<![A-Za-z\\])degrees?\b", r"^\\circ"),
        (r"\\frac *([0-9A-Za-z])", r"\\frac{\1}"),
        (r"(\\frac\{[^{}]*\}) *([0-9A-Za-z])", r"\1{\2}"),
        (r"\\sqrt *([0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"([\^_])\{ *([0-9A-Za-z]) *\}(?![0-9A-Za-z])", r"\1\2"),
        (r"\*\*", "^"),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"!=", r"\\ne "),
        (r"(?<![\d.])\.(?=\d)", "0."),
        (r"(?:^|(?<=[(\[,;=]))\+ *(?=\d|\\infty)", ""),
        (r"(?<=[^0-9A-Za-z ]) +| +(?=[^0-9A-Za-z ])", ""),
        (r"(?<![.\\])[.,;:]+$", ""),
    )
)
_THOUSANDS: Final = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!,?\d)")
_SPACED_THOUSANDS: Final = re.compile(r"-?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_BRACKET: Final = re.compile(r"[(\[]|\\\{")


def normalise(answer: str) -> str:
    r"""Normalise the spelling of an answer: spaces, `$`, `\left`, `\text`, `\dfrac`, thousands separators, final dot, etc.

    Two answers with the same result have the same meaning. Idempotent; takes linear time. In an answer of more than
    `MAX_LENGTH` characters only white space is collapsed.
    """
    text = " ".join(answer.split())
    return text if len(text) > MAX_LENGTH else _normalised(text)


@lru_cache(maxsize=65536)
def _normalised(text: str) -> str:
    for _ in range(MAX_LENGTH):
        changed = _one_pass(text)
        if changed == text or not changed or len(changed) > MAX_LENGTH:
            break
        text = changed
    return text


def _one_pass(text: str) -> str:
    text = "".join(_visible(character) for character in text.translate(_CHARACTERS))
    text = _COMMAND.sub(lambda match: _RENAMED.get(match[1], match[0]), text)
    text = _WRAPPER.sub(r" \1 ", text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if not _BRACKET.search(text):  # inside brackets a comma separates: (1,200) is a pair
        text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    if _SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    text = " ".join(text.split())
    return text[1:-1].strip() if _is_one_group(text) else text


def _visible(character: str) -> str:
    """Return the character, or "" for control, format (such as a right-to-left override) and surrogate characters."""
    return "" if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


def _is_one_group(text: str) -> bool:
    """Return whether a single pair of braces encloses the whole text."""
    if len(text) < 2 or text[0] != "{" or text[-1] != "}":
        return False
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end() == len(text)
    return False
