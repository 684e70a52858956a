r"""Readings of LaTeX's environments: matrices, determinants, systems of relations, and functions defined by cases."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from tasks.answers.kinds import expression
from tasks.answers.scan import split
from tasks.answers.tree import Expression, Items, Node, Opaque, Reading, Text, Value, number

Reader = Callable[[str, int], Reading]
Lister = Callable[[list[str], int], Reading]
MAX_CELLS: Final = 150
_MAX_DETERMINANT: Final = 4
_ENVIRONMENT: Final = re.compile(
    r"\\begin\{([a-z]*matrix|array|cases|aligned|align|gathered)\*?\}(?:\{[lcr|]*\})?(.*)\\end\{\1\*?\}"
)
_RELATION: Final = re.compile(r"[=<>]|\\[lg]e(?![a-z])|\\ne(?![a-z])|\\in(?![a-z])")
_CONDITION: Final = re.compile(r"^(?:, ?)?(?:if|when|for|where|当)? ?(.+?)[.,]?$")
_OTHERWISE: Final = frozenset(("otherwise", "else", "elsewhere", "其他"))
_TRANSPOSED: Final = re.compile(r"(.+?) ?\^\{? ?(?:T|t|\\top|\\intercal) ?\}?")


def matrix(text: str, nesting: int, reader: Reader, lister: Lister) -> Reading | None:
    """Read an environment, with an optional sign before it or sign of a transpose after it."""
    transposed = _TRANSPOSED.fullmatch(text)
    if transposed:
        inner = reader(transposed[1], nesting)
        return _transpose(inner) if isinstance(inner, Items) else None
    negative = text.startswith("-\\begin")
    match = _ENVIRONMENT.fullmatch(text[1:] if negative else text)
    if match is None or "\\begin" in match[2]:
        return None
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", match[2].replace("\\hline", "")) if row.strip()]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    if not match[1].endswith("matrix"):
        cases = [_case(row) for row in cells]
        if None not in cases:
            return Items(kind="set", items=tuple(_read_case(case, nesting, reader) for case in cases if case))
        if _RELATION.search(match[2]):
            return lister(["".join(row).rstrip(", ") for row in cells], nesting)
    if match[1] == "matrix" and all(len(row) == 1 for row in cells):
        return lister([row[0] for row in cells], nesting)
    if negative:
        cells = [[f"-({cell})" for cell in row] for row in cells]
    return _determinant(cells) if match[1] == "vmatrix" else rows_of(cells, nesting, reader)


def rows_of(cells: list[list[str]], nesting: int, reader: Reader) -> Reading | None:
    """Return the matrix of the cells; None if its rows differ in length, or it is too large."""
    if not cells or len({len(row) for row in cells}) != 1 or len(cells) * len(cells[0]) > MAX_CELLS:
        return None
    return _rows([tuple(reader(cell, nesting) for cell in row) for row in cells])


def _rows(rows: list[tuple[Reading, ...]]) -> Items:
    return Items(
        kind="tuple",
        items=tuple(Items(kind="tuple", items=row, brackets="row") for row in rows),
        brackets="rows",
    )


def nested(items: list[Reading]) -> Reading | None:
    """Return the matrix `[[1, 2], [3, 4]]`; None if the items are no rows of one length."""
    rows = [one.items for one in items if isinstance(one, Items) and one.brackets == "[]"]
    return _rows(rows) if len(rows) == len(items) and len({len(row) for row in rows}) == 1 else None


def _transpose(items: Items) -> Reading | None:
    rows = (
        [one.items for one in items.items if isinstance(one, Items)]
        if items.brackets == "rows"
        else [items.items]
    )
    return _rows(list(zip(*rows, strict=True))) if items.kind == "tuple" and not items.names else None


# --- determinants ------------------------------------------------------------------------------------------------


def _determinant(cells: list[list[str]]) -> Reading | None:
    found = [[expression(cell) for cell in row] for row in cells]
    nodes = [[one.node for one in row if one is not None] for row in found]
    if len(cells) > _MAX_DETERMINANT or any(len(row) != len(cells) for row in nodes):
        return Opaque(text=str(cells))
    return Value(expression=Expression(_expanded(nodes)))


def _expanded(rows: list[list[Node]]) -> Node:
    """Expand a determinant along its first row."""
    if len(rows) == 1:
        return rows[0][0]
    total = number(0)
    for place, node in enumerate(rows[0]):
        minor = _expanded([row[:place] + row[place + 1 :] for row in rows[1:]])
        total = Node(
            "add", (total, Node("mul", (number(-1 if place % 2 else 1), Node("mul", (node, minor)))))
        )
    return total


# --- functions defined by cases ----------------------------------------------------------------------------------


def _case(row: list[str]) -> tuple[str, str] | None:
    """Return the value and the condition of a case; None if the row is no case."""
    if len(row) == 1:
        row = split(row[0], (",",))
    if len(row) != 2 or not row[0] or not row[1] or _RELATION.search(row[0]):
        return None
    condition = re.sub(r" (?:is|are) (?=[a-z])", " ", _CONDITION.sub(r"\1", row[1]))
    worded = re.search(r"(?<![A-Za-z\\])[A-Za-z]{3,}|[\u4e00-\u9fff]", condition)
    return (row[0].rstrip(", "), condition) if worded or _RELATION.search(condition) else None


def _read_case(case: tuple[str, str], nesting: int, reader: Reader) -> Reading:
    value, condition = case
    met = Text(text="otherwise") if condition.casefold() in _OTHERWISE else reader(condition, nesting)
    return Items(kind="tuple", items=(reader(value, nesting), met), brackets="case")
