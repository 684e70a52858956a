"""Which column of a file is the text, answer, solution, id and tier of a problem. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tasks.errors import UserError

Column = Literal["text", "answer", "solution", "id", "tier"]
"""The fields of a problem that a column of a file can be mapped to."""
COLUMNS: tuple[Column, ...] = get_args(Column)

Path = tuple[str, ...]
"""A column, and the keys inside its objects."""

_PAIR = re.compile(
    rf"""(?:^|(?<=[\s,;]))({"|".join(COLUMNS)})\s*=\s*(?:("[^"]*"|'[^']*')(?=[\s,;]|$))?""", re.IGNORECASE
)
_TEXT_NAMES = re.compile(r"question|problem(?![ _]*id)|prompt|frage|aufgabe|messages|conversations", re.IGNORECASE)  # fmt: skip
_ANSWER_NAMES = re.compile(r"answer|antwort|ground_truth|gold|label|target|solution", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How messages name the settings for reading a file: `columns` returns those that map fields to columns, `verbatim` switches
    the recognition of answers off, `incomparable` is what happens to answers that are sentences."""

    columns: Callable[[Mapping[str, str]], str]
    verbatim: str
    incomparable: str


ANNOTATE = Wording(
    columns=lambda named: f'COLUMNS="{" ".join(f"{ours}={theirs}" for ours, theirs in named.items())}"',
    verbatim="ANSWERS=verbatim",
    incomparable="they are compared as they are, so a right majority answer counts as wrong",
)
"""The wording of `make annotate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The columns of each field. `asked`: fields whose columns the user named; the others were found by their names."""

    paths: Mapping[Column, tuple[Path, ...]]
    asked: frozenset[Column]

    def names(self) -> dict[str, str]:
        """Return the columns as text, for messages and fingerprints."""
        return {ours: "+".join(".".join(path) for path in paths) for ours, paths in self.paths.items()}


def parse_columns(text: str) -> dict[str, str]:
    """Parse `text=question answer=Short Answer`: each field name followed by `=` starts a pair, and the column extends to the
    next pair, so it may contain blanks. Quotes around a column are removed, and an empty column means that the field is not
    used. Raises `UserError` for anything else."""
    starts = list(_PAIR.finditer(text))
    before = text[: starts[0].start()] if starts else text
    if before.strip(" \t\r\n,;"):
        raise UserError(
            f"COLUMNS has {before.strip()!r}, which starts with none of {', '.join(COLUMNS)}: write e.g."
            ' COLUMNS="text=question answer=Short Answer"'
        )
    ends = [match.start() for match in starts[1:]] + [len(text)] * bool(starts)
    pairs = [
        (match[1].lower(), match[2][1:-1] if match[2] else text[match.end() : end].strip(" \t\r\n,;"))
        for match, end in zip(starts, ends, strict=True)
    ]
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UserError(f"COLUMNS names a column for one field twice: {text.strip()!r}")
    return found


def select_columns(
    path: object, given: Mapping[str, str], there: Mapping[str, Any], wording: Wording = ANNOTATE
) -> Selection:
    """Choose the columns of a file: those in `given`, and for the other fields the columns with their names.

    `there` maps the file's columns to an example value. A name matches regardless of case and blanks; `a.b` is the entry `b` of
    the objects in column `a`, and `text=a+b` joins two columns. An empty name leaves the field out. Raises `UserError` for an
    unknown field, for a column that is not in the file, or if there is no text column.
    """
    if unknown := sorted(given.keys() - set(COLUMNS)):
        raise UserError(f"unknown target column {unknown[0]!r}: choose one of {', '.join(COLUMNS)}")
    paths: dict[Column, tuple[Path, ...]] = {}
    for ours in COLUMNS:
        if given.get(ours):
            paths[ours] = _named(path, ours, given[ours], there)
        elif ours not in given and (found := _column(ours, there)) is not None:
            paths[ours] = ((found,),)
    if "text" not in paths:
        raise UserError(
            f"{path} has no column 'text'; it has {listed(there)}: name the one with the problem, e.g. {advice(there, wording)}"
        )
    return Selection(paths=paths, asked=frozenset(ours for ours in COLUMNS if given.get(ours)))


def _named(path: object, ours: Column, name: str, there: Mapping[str, Any]) -> tuple[Path, ...]:
    whole = _path(name, there)
    if whole is not None:
        return (whole,)
    if ours == "text" and "+" in name:
        parts = [_path(part.strip(), there) for part in name.split("+")]
        if all(parts):
            return tuple(part for part in parts if part is not None)
    raise UserError(f"{path} has no column {name!r}; it has {listed(there)}: correct its name")


def _path(name: str, there: Mapping[str, Any]) -> Path | None:
    """Return the column with this name, or the column and the keys inside its objects; None if there is none."""
    if (found := _column(name, there)) is not None:
        return (found,)
    for match in re.finditer(r"\.", name):
        head, rest = name[: match.start()], name[match.end() :]
        column = _column(head, there)
        if column is not None and isinstance(there[column], Mapping):
            inside = _path(rest, there[column])
            return None if inside is None else (column, *inside)
    return None


def _column(name: str, there: Iterable[str]) -> str | None:
    """Return the column with this name, or the only one that differs from it in case and blanks."""
    if name in there:
        return name
    alike = [found for found in there if _loose(found) == _loose(name)]
    return alike[0] if len(alike) == 1 else None


def _loose(name: str) -> str:
    return " ".join(name.split()).casefold()


def listed(there: Mapping[str, Any]) -> str:
    """Return the names of the columns, with the keys inside objects, for messages."""
    names = [
        f"{name}.{key}"
        for name, value in there.items()
        for key in (value if isinstance(value, Mapping) and value else [None])
        if key is not None
    ]
    plain = [name for name, value in there.items() if not (isinstance(value, Mapping) and value)]
    return ", ".join([*plain, *names]) or "none"


def advice(there: Mapping[str, Any], wording: Wording = ANNOTATE) -> str:
    """Return an example of the columns of a file without a column `text`."""
    text = next((name for name in there if _TEXT_NAMES.search(name)), next(iter(there), "question"))
    answer = answer_like({name: value for name, value in there.items() if name != text})
    return wording.columns({"text": text, **({"answer": answer} if answer else {})})


def answer_like(there: Mapping[str, Any]) -> str | None:
    """Return the name of a column, or of an entry inside one, that may be the answer; None if there is none."""
    entries = [
        (f"{name}.{key}" if key else name)
        for name, value in there.items()
        for key in (value if isinstance(value, Mapping) and value else [""])
    ]
    found = [name for name in entries if _ANSWER_NAMES.search(name) and "type" not in name.lower()]
    exact = [name for name in found if "solution" not in name.lower()]
    return next(iter([*exact, *found]), None)


def value_at(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return the value of a row at a path; None if it is not there."""
    found: Any = values
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
