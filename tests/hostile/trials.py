"""Seeded trials of one kind of attack, counted for the table that `make hostile` prints."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

SHOWN = 5
"""Failures that are quoted in the message of a failed test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The result of one kind: how many trials there were, and how many of them failed."""

    kind: str
    tried: int
    failed: int


@dataclass(slots=True)
class Trials:
    """The fixture `trials`. A test calls `run`, or `add` for trials that share a server, a file or a process."""

    tallies: list[Tally] = field(default_factory=list)

    def run(self, kind: str, count: int, check: Callable[[random.Random], None]) -> None:
        """Call `check` once per trial, with a generator seeded by kind and number. It raises if the code does not hold.

        All trials are made; the test fails afterwards, with the number and the error of the first failures.
        """
        failures = []
        for number in range(count):
            try:
                check(random.Random(f"{kind} {number}"))
            except Exception as error:
                failures.append(f"trial {number}: {type(error).__name__}: {error}")
        self.add(kind, count, failures)

    def add(self, kind: str, tried: int, failures: Sequence[str]) -> None:
        """Count trials that were made elsewhere. Fails the test if there are failures, one text each."""
        self.tallies.append(Tally(kind=kind, tried=tried, failed=len(failures)))
        shown = "\n".join(failures[:SHOWN])
        assert not failures, f"{kind}: {len(failures)} of {tried} trials failed:\n{shown}"
