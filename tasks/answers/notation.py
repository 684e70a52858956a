r"""Normalisation of the spelling of an answer in LaTeX or plain text.

`normalise` changes only the spelling of an answer, never its meaning: units, percent signs and `x =` are kept, and so are
ambiguities, such as whether `1,234` is a number or a list of two. What an answer means is decided in
`tasks.answers.readings`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

MAX_LENGTH: Final = 4000
"""Longer answers (in characters) are compared as strings only."""

_CHARACTERS: Final = str.maketrans({
    "−": "-", "–": "-", "‐": "-", "—": "-", "×": "\\cdot ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "/", "π": "\\pi ",
    "∞": "\\infty ", "√": "\\sqrt ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∪": "\\cup ", "∩": "\\cap ",
    "∈": "\\in ", "∅": "\\emptyset ", "±": "\\pm ", "°": "^\\circ ", "²": "^2", "³": "^3", "½": "\\frac{1}{2}",
    "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "’": "'", "‘": "'",
    "“": '"', "”": '"', "\xa0": " ", "\u202f": " ", "\u2009": " ", "\u3000": " ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}",
    "ℕ": "\\mathbb{N}", "≈": "\\approx ", "≡": "\\equiv ", "∠": "\\angle ", "→": "\\to ", "⇒": "\\Rightarrow ",
    "∴": "\\therefore ", "…": "\\ldots ", "，": ", ", "。": ".", "、": ", ", "；": "; ", "：": ":", "（": "(", "）": ")",
    "【": "[", "】": "]", "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "δ": "\\delta ", "θ": "\\theta ",
    "λ": "\\lambda ", "μ": "\\mu ", "σ": "\\sigma ", "φ": "\\phi ", "ω": "\\omega ", "∖": "\\setminus ", "￥": "¥",
    "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "⁻": "^-", "¹": "^1", "⁴": "^4", "ⁿ": "^n",
    **{chr(0xFF01 + offset): chr(0x21 + offset) for offset in range(94) if chr(0xFF01 + offset) not in "，；：（）"},
})  # fmt: skip

_RENAMED: Final = {
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac", "leq": "\\le", "leqslant": "\\le", "geq": "\\ge",
    "geqslant": "\\ge", "neq": "\\ne", "lt": "<", "gt": ">", "times": "\\cdot", "ast": "\\cdot", "div": "/",
    "varnothing": "\\emptyset", "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "langle": "(",
    "rangle": ")", "lparen": "(", "rparen": ")", "degree": "^\\circ", "colon": ":", "vert": "|", "lvert": "|",
    "rvert": "|", "Vert": "|", "lVert": "|", "rVert": "|", "dbinom": "\\binom", "tbinom": "\\binom", "lor": " or ",
    "land": " and ", "vee": " or ", "wedge": " and ", "infin": "\\infty", "ne": "\\ne", "dots": "\\ldots",
    "cdots": "\\ldots", "dotsc": "\\ldots", "dotsb": "\\ldots", "smallsetminus": "\\setminus", "backslash": "\\setminus",
    "varphi": "\\phi", "varepsilon": "\\epsilon", "vartheta": "\\theta", "triangle": "\\triangle", "implies": "\\Rightarrow",
    "Longrightarrow": "\\Rightarrow", "rightarrow": "\\to", "simeq": "\\approx", "doteq": "\\approx", "thickapprox": "\\approx",
    "overrightarrow": "\\vec", "pounds": "£", "euro": "€", "textdollar": "\\$", "slash": "/",
    **dict.fromkeys((
        "left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr", "displaystyle",
        "textstyle", "limits", "nolimits", "large", "Large", "LARGE", "huge", "Huge", "small", "normalsize", "bf", "rm",
        "it", "mathstrut", "strut", "mathopen", "mathclose", "middle", "scriptstyle", "hfill", "noindent", "centering",
    ), ""),
    **dict.fromkeys(("quad", "qquad", "thinspace", "enspace", "hspace", "space", "medspace", "thickspace", "newline"), " "),
}  # fmt: skip

_COMMAND: Final = re.compile(r"(?<!\\)\\([A-Za-z]+)")
_WRAPPER: Final = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|textsf|texttt|mathrm|mathbf|mathit|mathsf|mathcal|mbox|hbox|operatorname\*?"
    r"|boldsymbol|emph|bm|pmb|textup|mathnormal|underline|boxed|fbox|framebox|tag|ce)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_COLOURED: Final = re.compile(r"\\(?:color|textcolor|colorbox)\s*\{[^{}]*\}\s*")
_VECTOR: Final = re.compile(r"\\(?:mathbf|boldsymbol|bm|vec) *\{? *([a-z])\b *\}?")
_LETTER_COMMANDS: Final = re.compile(r"\\(?:mathrm|text|operatorname) *\{ *(e|i|d) *\}")
_CASES: Final = re.compile(
    r"(?:\\left)? *\\\{ *(\\begin *\{(array|aligned|matrix|cases|align)\}.*?\\end *\{\2\}) *(?:\\right *\.)?",
    re.DOTALL,
)

# Applied in this order. An escaped backslash (a line break in a matrix) does not start a command.
_REWRITES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\d)(?:\{,\}|\\,|,?\\!)(?=\d{3}(?!\d))", ""),  # 1{,}000  1\,000  1,\!000
        (r"(?<!\\)\\[,;:>~ ]|~", " "),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[()\[\]]|(?<!\\)\$(?! ?-?[\d.])|(?<=[\d)}\]])\$", ""),
        (r"\\(?:hspace|vspace|phantom|hphantom) *\*?\{[^{}]*\}", " "),
        (r"(?<!\\)\\%| ?\b(?:percent(?:age)?|per cent|pct)\b\.?", "%"),
        (
            r"[\^_]\{ *(?:\\circ|o) *\}|[\^_]\\circ(?![A-Za-z])|(?<![A-Za-z\\])degrees?\b(?! [a-zA-Z])",
            r"^\\circ",
        ),
        (r"\\sqrt +(\d+)", r"\\sqrt{\1}"),
        (r"\\frac *([0-9A-Za-z])", r"\\frac{\1}"),
        (r"(\\frac *\{[^{}]*\}) *([0-9A-Za-z])", r"\1{\2}"),
        (r"\\sqrt *([0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"\\log_(\d)(?=\d)", r"\\log_{\1}"),
        (r"([\^_])\{ *([0-9A-Za-z]) *\}(?![0-9A-Za-z])", r"\1\2"),
        (r"\\mathbb *([A-Z])", r"\\mathbb{\1}"),
        (r"\*\*", "^"),
        (r"<=|=<", r"\\le "),
        (r">=", r"\\ge "),
        (r"(?<![\w)}\]])!=", r"\\ne "),
        (r"\+/?-(?=[\d.\\a-z])", r"\\pm "),
        (r"(?<=[\d}]) ?[x*] ?(?=10 ?\^)", r"\\cdot "),
        (r"(?<![\w.])\.(?=\d|\\overline)", "0."),
        (r"(?<=\d)\.(?=[-+*/)])", ""),
        (r"\b(?:np|math|sympy|sp)\.(?=[a-z])", ""),
        (r"(\d\.\d*)\\dot *\{?(\d)\}?(\d*)\\dot *\{?(\d)\}?(?!\d)", r"\1\\overline{\2\3\4}"),
        (r"(\d\.\d*)\\(?:dot|bar) *\{?(\d)\}?(?!\d|\\dot)", r"\1\\overline{\2}"),
        (r"(?:\{\} *)?_\{? ?(\w+) ?\}? *C *_\{? ?(\w+) ?\}?", r"\\binom{\1}{\2}"),
        (r"(\d\.\d*)\\bar *\{(\d+)\}", r"\1\\overline{\2}"),
        (r"(?:^|(?<=[(\[,;=]))\+ *(?=\d|\\infty)", ""),
        (r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d]|,\d)", "\x01\\1\x02"),
        (r"\.{3,}", r"\\ldots "),
        (r"(?<=[^0-9A-Za-z })]) +|(?<=[})]) +(?![A-Za-z])| +(?=[^0-9A-Za-z ])", ""),
        (r"(?<![.\\])[.,;:]+$", ""),
    )
)
_GROUPED: Final = re.compile(r"\x01([\d,]+)\x02")
_MATHEMATICS: Final = re.compile(r"(?<!\\)\$(?=\S)([^$]*?[\w\]})!%'.|])\$(?!\d)")
_COMMA: Final = re.compile(r",(?! )")
_SPACED_THOUSANDS: Final = re.compile(r"-?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_PLAIN: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")


def normalise(answer: str) -> str:
    r"""Normalise the spelling of an answer: spaces, `$`, `\left`, `\text`, `\dfrac`, colours, final dot, etc.

    Two answers with the same result have the same meaning. Idempotent; takes linear time. In an answer of more than
    `MAX_LENGTH` characters only white space is collapsed.
    """
    text = " ".join(answer.split())
    if len(text) > MAX_LENGTH or _PLAIN.fullmatch(text):
        return text
    return _normalised(text)


@lru_cache(maxsize=65536)
def _normalised(text: str) -> str:
    for _ in range(40):
        changed = _one_pass(text)
        if changed == text or not changed or len(changed) > MAX_LENGTH:
            break
        text = changed
    return text


def _one_pass(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(_visible, text.translate(_CHARACTERS)))
    if "*" in text or "_" in text:
        text = _unmarked(text)
    if "$" in text:
        text = _MATHEMATICS.sub(r" \1 ", text)
    if "\\" in text:
        text = _commands(text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if "," in text:
        text = _GROUPED.sub(lambda match: match[1].replace(",", "\x00"), text)
        text = _COMMA.sub(", ", text).replace("\x00", ",")
    if _SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    text = " ".join(text.split()).strip("`").strip()
    if '"' in text and text.count('"') % 2 == 0:
        text = text.replace('"', " ").strip()
    return text[1:-1].strip() if _is_one_group(text) and not _braced_list(text) else text


def _unmarked(text: str) -> str:
    """Remove Markdown's emphasis around the whole answer."""
    for mark in ("**", "__"):
        if len(text) > 4 and text.startswith(mark) and text.endswith(mark):
            return text.strip(mark[0])
    return text


def _commands(text: str) -> str:
    text = _CASES.sub(r"\1", text)
    text = _COLOURED.sub("", text)
    text = _LETTER_COMMANDS.sub(r"\1", text)
    text = _VECTOR.sub(lambda match: f"\\vec{{{match[1]}}}", text)
    text = re.sub(r"\\(?:left|right) *\.", "", text)
    text = _COMMAND.sub(lambda match: _RENAMED.get(match[1], match[0]), text)
    text = text.replace("\\|", "|")
    return _WRAPPER.sub(r" \1 ", text)


def _visible(character: str) -> str:
    """Return the character, or "" for control, format (such as a right-to-left override) and surrogate characters."""
    return "" if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


def _braced_list(text: str) -> bool:
    """Return whether `{1, 2}` may be meant as a set: braces around a list of plain values."""
    return re.fullmatch(r"\{[^{}\\]*,[^{}\\]*\}", text) is not None and not re.fullmatch(
        r"\{\d{1,3}(,\d{3})+\}", text
    )


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
