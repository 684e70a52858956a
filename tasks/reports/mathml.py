"""Typeset the LaTeX of problems, answers and responses as MathML, which browsers draw without scripts or fonts.

The texts are untrusted: what `latex2mathml` returns is rebuilt from allowed elements and attributes, with every text escaped.
A formula that is too long, too deep, unknown to the library, or that would hide or move a text, is shown as its source.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from tasks.text import visible

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_FORMULA = 600  # characters of one formula
MAX_DEPTH = 12  # nested braces, environments and \left
MAX_NODES = 1200  # elements of one formula

_FORMULA = re.compile(
    (
        r"\$\$(?P<display>[^$]{1,MAX})\$\$"
        r"|\\\[(?P<square>(?:(?!\\[\[\]]).){1,MAX})\\\]"
        r"|\\\((?P<round>(?:(?!\\[()]).){1,MAX})\\\)"
        r"|(?<![\\$])\$(?P<dollar>(?!\s)(?:\\.|[^$\\]){1,MAX}(?<!\s))\$(?![$\d])"
        r"|(?P<boxed>\\boxed\{[^{}$]{0,100}(?:\{[^{}$]{0,100}\}[^{}$]{0,100}){0,8}\})"
    ).replace("MAX", str(MAX_FORMULA)),
    re.DOTALL,
)
_BLANK_LINE = re.compile(r"\n\s*\n")
_NESTING = re.compile(r"\\.|[{}]|[_^]", re.DOTALL)
_OPENS = re.compile(r"\\(?:left|begin)(?![A-Za-z])")
# Macros could expand without bound; the others set links, classes, styles or code points.
_REFUSED = re.compile(
    r"\\(?:newcommand|renewcommand|def|let|href|class|style|cssId|unicode|phantom|hphantom|vphantom)(?![A-Za-z])"
)
_LATEX = re.compile(r"[\\^_{]")

_ELEMENTS = frozenset(
    "math mrow mi mn mo mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mmultiscripts mprescripts"
    " none mtable mtr mtd mstyle mpadded menclose".split()
)
_VALUES = {
    **dict.fromkeys(
        ("stretchy", "fence", "separator", "accent", "accentunder", "largeop", "movablelimits", "displaystyle"),
        re.compile(r"true|false"),
    ),
    **dict.fromkeys(("width", "lspace", "rspace", "linethickness"), re.compile(r"[0-4]?(?:\.\d{1,4})?(?:em|ex|pt|px)|0")),
    **dict.fromkeys(("minsize", "maxsize"), re.compile(r"[0-4](?:\.\d{1,4})?em")),
    "form": re.compile(r"prefix|infix|postfix"),
    "columnalign": re.compile(r"(?:left|center|right)(?: (?:left|center|right)){0,20}"),
    "mathvariant": re.compile(r"[a-z-]{1,30}"),
    "scriptlevel": re.compile(r"[+-]?[0-2]"),
    "notation": re.compile(r"box|circle|updiagonalstrike|downdiagonalstrike"),
}  # fmt: skip


class Typesetter:
    """Typesets texts; each distinct formula is converted once, and at most `budget` of them: later ones stay source."""

    def __init__(self, budget: int = 60_000) -> None:
        self._left = budget
        self._known: dict[tuple[str, bool], Markup | None] = {}

    def text(self, text: str) -> Markup:
        """Return the text as HTML, its formulas as MathML."""
        if "$" not in text and "\\" not in text:
            return escape(visible(text))
        return Markup("").join(self._parts(text))

    def answer(self, text: str) -> Markup:
        """Return an answer, LaTeX without delimiters, as HTML."""
        if not _LATEX.search(text) or "$" in text:
            return self.text(text)
        return self._formula(text, display=False) or escape(visible(text))

    def _parts(self, text: str) -> Iterator[Markup]:
        place = 0
        for found in _FORMULA.finditer(text):
            inner = found[found.lastgroup or 0]
            display = found.lastgroup in {"display", "square"}
            drawn = None if _BLANK_LINE.search(inner) else self._formula(inner, display=display)
            if drawn is not None:
                yield escape(visible(text[place : found.start()]))
                yield drawn
                place = found.end()
        yield escape(visible(text[place:]))

    def _formula(self, source: str, *, display: bool) -> Markup | None:
        key = (source, display)
        if key not in self._known:
            if self._left <= 0:
                return None
            self._left -= 1
            self._known[key] = typeset(source, display=display)
        return self._known[key]


def typeset(source: str, *, display: bool = False) -> Markup | None:
    """Return one formula as a MathML element, or None if it must be shown as its source."""
    if len(source) > MAX_FORMULA or _REFUSED.search(source) or _depth(source) > MAX_DEPTH:
        return None
    from latex2mathml.converter import convert_to_element

    try:
        root = convert_to_element(source, display="block" if display else "inline")
    except Exception:  # the library raises its own errors and built-in ones for malformed input
        return None
    parts: list[str] = []
    if not _rebuild(root, parts):
        return None
    return Markup(
        f'<math display="block">{"".join(parts)}</math>' if display else f"<math>{''.join(parts)}</math>"
    )


def _depth(source: str) -> int:
    deepest = level = 0
    for found in _NESTING.finditer(source):
        level += {"{": 1, "}": -1}.get(found[0], 0)
        deepest = max(deepest, level)
    return deepest + len(_OPENS.findall(source))


def _rebuild(root: Element, parts: list[str]) -> bool:
    """Append the children of `root` as HTML; False if one of them is not allowed, unknown, or there are too many."""
    todo: list[Element | str] = list(reversed(root))
    nodes = 0
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            parts.append(one)
            continue
        nodes += 1
        text = html.unescape(one.text or "")
        if nodes > MAX_NODES or one.tag not in _ELEMENTS or text.startswith("\\"):
            return False
        parts.append(f"<{one.tag}{_attributes(one)}>{escape(visible(text))}")
        todo += [f"</{one.tag}>", *reversed(one)]
    return True


def _attributes(element: Element) -> str:
    kept = [
        (name, value)
        for name, value in element.attrib.items()
        if name in _VALUES and _VALUES[name].fullmatch(value)
    ]
    return "".join(f' {name}="{value}"' for name, value in kept)
