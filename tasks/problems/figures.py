r"""Whether a problem needs a figure, a table or a shading that its text does not contain.

A drawing in code (`[asy]`, TikZ) is in the text: a model that reads the text has its coordinates and labels, so a reference to
it ("in the diagram", "the line shown") misses nothing. Code that breaks off, or that has no coordinates, is no drawing. An image
(`\includegraphics`, a link) cannot be read and is always missing. Without a drawing only an explicit reference counts. A
sentence that introduces an example ("the diagram below shows three of those rectangles") is no reference, nor is one to a table
whose rows are in the text, or to shading that the text defines.
"""

from __future__ import annotations

import re
from typing import Final

from tasks.problems.questions import may_match

_IMAGE: Final = re.compile(
    r"\\includegraphics|\bgraphic\s*\(|!\[[^\]]*\]\(|<(?:img|image|svg)\b", re.IGNORECASE
)
DRAWING: Final = re.compile(
    r"(?:(?P<asy>\[asy\])|\\begin\{(?P<name>tikzpicture|asy)\})(?P<code>.*?)"
    r"(?:(?(asy)\[/asy\]|\\end\{(?P=name)\})|(?P<unfinished>\Z))",
    re.IGNORECASE | re.DOTALL,
)
_STATES: Final = re.compile(r"\d|\bunit(?:square|circle)\b")  # coordinates, lengths or angles

_FIGURE: Final = r"(?:figure|diagram|picture|illustration|drawing|sketch)s?"
_GRAPHIC: Final = rf"(?:{_FIGURE}|(?:image|graph|chart|plot|histogram|map|number\ line|grid|table)s?)"
_REFERENCE: Final = re.compile(
    rf"""\b(?:shown|depicted|illustrated|pictured|drawn|displayed|seen|marked|labell?ed|indicated|given)\s+(?:in|by|on)\s+
            (?:the|this)\s+(?:\w+\s+)?{_GRAPHIC}\b(?!\s+of\b)
      | \b(?:the|this|each)\s+(?:\w+\s+)?{_GRAPHIC}\s+(?:is\s+|are\s+)?(?:given\s+)?
            (?:below|above|shown|at\s+(?:the\s+)?right|(?:to|on)\s+the\s+(?:right|left))\b
      | \b(?:see|refer\s+to|according\s+to|based\s+on|(?:information|data)\s+in)\s+(?:the\s+|this\s+)?(?:\w+\s+)?
            {_GRAPHIC}\b(?!\s+of\b)
      | \b(?:look(?:ing)?\s+at|us(?:e|ing))\s+(?:the|this)\s+(?:\w+\s+)?(?:figure|diagram|graph|chart|histogram)\b(?!\s+of\b)
      | \bthe\s+(?:accompanying|adjoining|adjacent|attached|following|given)\s+(?:{_FIGURE}|charts?|tables?)\b
      | \b(?:in|from|on|of)\s+(?:the|this)\s+(?:figure|diagram)\b
      | \bthe\s+(?:\w+\s+)?(?:figure|diagram|table|chart|graph|histogram)s?\s+(?:shows?|depicts?|illustrates?|gives|lists)\b
      | \b(?:in|see|from|by|on|to)\s+fig(?:ures?\b|s?\.)\s*\(?\d
      | \bgraphs?\s+of\b[^.?!\n]{{0,80}}\b(?:is|are)\s+(?:shown|given|drawn|pictured)\b(?!\s+by\b)
      | \bthe\s+(?:\w+\s+)?(?:triangle|quadrilateral|rectangle|square|polygon|circle|solid|shape|line|curve|parabola)\s+shown\b
      | \b(?:graphed|pictured|depicted|sketched|drawn)\s+(?:below|above|here)\b
      | \b(?:shown|pictured|drawn)\s+(?:at|to|on)\s+(?:the\s+)?(?:right|left)\b
      | (?:^|[.?!]\s+)as\s+shown,
      | \bthe\s+(?:\w+\s+)?shaded\s+(?:region|area|part|portion|section|figure|zone)s?\b
      | \\begin\{{figure\}}""",
    re.IGNORECASE | re.VERBOSE,
)
_EXAMPLE: Final = re.compile(
    r"\b(?:for\s+(?:example|instance)|examples?"
    r"|(?:one|two|three|four|five|six|some|several)\s+(?:such|possible|of\s+(?:these|those|them)))\b",
    re.IGNORECASE,
)
_SHADES: Final = re.compile(
    r"\b(?:is|are|be|been|was|were|we)\s+(?:then\s+)?(?:shaded|shade)\b|\bshad(?:e|es|ing)\b", re.IGNORECASE
)
_TABLE: Final = re.compile(
    r"\\begin\{(?:tabular|array|\w*matrix|align|longtable|table)|\\hline|\|[^|\n]*\||\t| & |(?:\n[^\n]*\d[^\n]*){2}"
)
_NEEDED: Final = (
    "fig", "diagram", "picture", "image", "illustrat", "drawing", "drawn", "depict", "sketch", "graph", "chart", "plot",
    "histogram", "map", "line", "grid", "table", "asy", "tikz", "![", "<img", "<svg", "shown", "shaded",
)  # fmt: skip


def missing_figure(text: str) -> str | None:
    """Return the passage that shows that a text needs a figure which it does not contain, or None."""
    if not may_match(text, _NEEDED):
        return None
    if match := _IMAGE.search(text):
        return around(match)
    drawings = list(DRAWING.finditer(text))
    for drawing in drawings:
        if drawing["unfinished"] is not None:
            return f"a drawing that breaks off: {text[-40:]}"
    if any(_STATES.search(drawing["code"]) for drawing in drawings):
        return None
    prose = DRAWING.sub(" ", text)
    for match in _REFERENCE.finditer(prose):
        if not (_is_example(prose, match) or _is_in_text(prose, match.group().lower())):
            return around(match)
    return None


def around(match: re.Match[str]) -> str:
    """Return a match with some characters on both sides, as one line."""
    return " ".join(match.string[max(0, match.start() - 20) : match.end() + 20].split())


def _is_in_text(text: str, reference: str) -> bool:
    """Return whether the table or the shading that is referred to is in the text itself."""
    if "shaded" in reference:
        return _SHADES.search(text) is not None
    return any(word in reference for word in ("table", "chart", "grid")) and _TABLE.search(text) is not None


def _is_example(text: str, match: re.Match[str]) -> bool:
    """Return whether the sentence of the match introduces an example."""
    before = re.split(r"[.!?\n]", text[: match.start()])[-1]
    after = re.split(r"[.!?\n]", text[match.end() :], maxsplit=1)[0]
    return _EXAMPLE.search(before + match.group() + after) is not None
