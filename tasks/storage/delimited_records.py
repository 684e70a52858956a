"""Rows of CSV and TSV files. The delimiter is recognised from the header and must fit most rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

from tasks.errors import UserError
from tasks.storage.json_records import numbered_lines
from tasks.storage.records import MAX_BYTES, Fault, Record

_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SAMPLE_LINES = 1000
_SAMPLE_CHARS = 2_000_000
_MARK = re.compile(r"sep=(.)\s*")  # the first line of some files written by Excel


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a file separates its cells. `skip_lines`: lines above the header."""

    delimiter: str = ","
    quoted: bool = True
    blank_after: bool = False  # a blank follows each delimiter
    skip_lines: int = 0

    @property
    def notice(self) -> str | None:
        """What was recognised; None for commas."""
        quotes = "" if self.quoted else ", and quotes are part of the text"
        return (
            None if self.delimiter == "," else f"the cells are separated by {_NAMES[self.delimiter]}{quotes}"
        )

    def reader(self, lines: Iterator[str]) -> Any:  # a reader of csv
        """Return a reader of lines."""
        csv.field_size_limit(MAX_BYTES)
        return csv.reader(
            lines, delimiter=self.delimiter, skipinitialspace=self.blank_after, strict=True,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
        )  # fmt: skip


def dialect_of(name: str, file: IO[bytes]) -> Dialect:
    """Return the dialect of a file, and rewind it.

    The first of commas, semicolons, tabs and vertical bars that gives the header several cells, and as many to at least half
    of the first rows. Raises `UserError` if the rows disagree with a header that has one of the last three, since a problem
    would then contain its answer.
    """
    lines = _sample(file)
    if mark := _MARK.fullmatch(lines[0] if lines else ""):
        return Dialect(delimiter=mark[1], skip_lines=1) if mark[1] in _NAMES else Dialect(skip_lines=1)
    header = next((line for line in lines if line.strip()), "")
    candidates = [
        Dialect(delimiter=delimiter, quoted=quoted, blank_after=f"{delimiter} " in header)
        for delimiter, quoted in ((",", True), (";", True), ("\t", True), ("\t", False), ("|", True))
        if delimiter in header
    ]
    fits = {dialect: fit for dialect in candidates if (fit := _fit(dialect, lines)).cells > 1}
    fitting = [dialect for dialect, fit in fits.items() if fit.share >= 0.5]
    if fitting:
        return next((dialect for dialect in fitting if fits[dialect].clean), fitting[0])
    possible = next(iter(fits), Dialect())
    if possible.delimiter == ",":
        return possible
    raise UserError(
        f"{name}, line 1 separates its cells by {_NAMES[possible.delimiter]}, but the other rows have another number of"
        " cells: put cells with the delimiter or line breaks in double quotes."
    )


def _sample(file: IO[bytes]) -> list[str]:
    lines, size = [], 0
    for _, line in islice(numbered_lines(file), _SAMPLE_LINES):
        text = "" if isinstance(line, Fault) else line
        size += len(text)
        if size > _SAMPLE_CHARS:
            break
        lines.append(text)
    file.seek(0)
    return lines


@dataclass(frozen=True, slots=True)
class _Fit:
    cells: int  # of the header
    share: float  # of the other rows with as many cells
    clean: bool  # the sample is valid CSV


def _fit(dialect: Dialect, lines: Sequence[str]) -> _Fit:
    sizes: list[int] = []
    clean = True
    try:
        sizes.extend(len(row) for row in dialect.reader(iter(lines)) if any(cell.strip() for cell in row))
    except csv.Error:  # also at the end of a sample, inside a cell with line breaks
        clean = False
    if len(sizes) < 2:
        return _Fit(sizes[0] if sizes else 0, 1.0, clean)
    return _Fit(sizes[0], sizes[1:].count(sizes[0]) / (len(sizes) - 1), clean)


def delimited_records(name: str, file: IO[bytes], dialect: Dialect) -> Iterator[Record | Fault]:
    """Yield the rows below the header, with None for an empty cell; the number of a row is that of its last line.

    Rows without any content are skipped. Raises `UserError` for a header with equal names, and for a line that is too long or
    an open quote, after which no row can be told from the next.
    """
    names: list[str] | None = None
    for number, cells, bad in _rows(name, file, dialect):
        if not any(cell.strip() for cell in cells):
            continue
        if names is None:
            names = _header(name, number, cells)
            continue
        where = f"line {number}"
        if bad is not None:
            yield bad
        elif len(cells) != len(names):
            yield Fault(
                sentence=f"{where} has {len(cells)} cells, but the header has {len(names)}: put cells with"
                f" {_NAMES[dialect.delimiter]} or line breaks in double quotes."
            )
        else:
            yield Record(
                where=where, line=number,
                values={name: cell or None for name, cell in zip(names, cells, strict=True)},
            )  # fmt: skip


def header_of(name: str, file: IO[bytes], dialect: Dialect) -> tuple[str, ...]:
    """Return the column names, and rewind the file."""
    rows = ((number, cells) for number, cells, _ in _rows(name, file, dialect) if any(map(str.strip, cells)))
    number, cells = next(rows, (0, []))
    file.seek(0)
    return tuple(_header(name, number, cells))


def _header(name: str, number: int, cells: Sequence[str]) -> list[str]:
    """Return the names without blanks around them; a column without a name is called after its position."""
    names = [cell.strip() or f"column {position}" for position, cell in enumerate(cells, start=1)]
    if twice := next((found for found in names if names.count(found) > 1), None):
        raise UserError(f"{name}, line {number} has two columns {twice!r}: give every column a unique name.")
    return names


def _rows(name: str, file: IO[bytes], dialect: Dialect) -> Iterator[tuple[int, list[str], Fault | None]]:
    """Yield (line number, cells, the fault of one of its lines) for every row, the header included."""
    bad: list[Fault] = []

    def lines() -> Iterator[str]:
        for number, line in numbered_lines(file):
            if isinstance(line, Fault):
                if " is longer than " in line.sentence:
                    raise UserError(f"{name}, {line.sentence}")
                bad.append(line)
                yield "\ufffd\n"
            elif number > dialect.skip_lines:
                yield line

    rows, start = dialect.reader(lines()), 1
    try:
        for cells in rows:
            start = rows.line_num + 1
            yield rows.line_num + dialect.skip_lines, cells, bad.pop() if bad else None
            bad.clear()
    except csv.Error as error:
        at_end = "unexpected end" in str(error)
        reason = "the file ends inside double quotes: is it cut off?" if at_end else f"{error}"
        raise UserError(
            f"{name}, line {start + dialect.skip_lines} is not valid CSV ({reason}): correct it, or write the file as JSON"
            " lines."
        ) from error
