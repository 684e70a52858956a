"""Rows of an input file as they were read, and rows that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import UserError

MAX_BYTES = 1_000_000
"""Longest line of a text file, and longest text of a row, in bytes."""
SHOWN_FAULTS = 20
"""Faults of one file that are listed; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row of a file. `where` is its place in the file ("line 7"), and `line` the number in it, from 1."""

    where: str
    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A row that cannot be used. `sentence` names its place in the file, the reason and the remedy."""

    sentence: str


def strict(name: str, rows: Iterable[Record | Fault]) -> Iterator[Record]:
    """Yield the records. Raises `UserError` at the first fault."""
    for row in rows:
        if isinstance(row, Fault):
            raise UserError(f"{name}, {row.sentence}")
        yield row


@dataclass(slots=True)
class Faults:
    """The faults of one file: the first ones and their number."""

    path: Path
    first: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, sentence: str) -> None:
        """Count a fault, and keep its sentence if it is among the first ones."""
        self.count += 1
        if len(self.first) < SHOWN_FAULTS:
            self.first.append(sentence)

    def raise_any(self) -> None:
        """Raise one `UserError` with the first faults and their number, if there are any."""
        if self.count == 1:
            raise UserError(f"{self.path}, {self.first[0]}")
        if self.count:
            shown = f"; the first {SHOWN_FAULTS}" if self.count > SHOWN_FAULTS else ""
            listed = "\n".join(f"  {sentence}" for sentence in self.first)
            raise UserError(f"{self.path} has {self.count:,} rows that cannot be used{shown}:\n{listed}")
