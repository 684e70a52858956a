"""What the rows of gpu.py share: the clock and the memory of a device, and a table that is printed row by row."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MIB = 2**20
PRODUCTS = 10  # square products of one timing: of a single one the start would count
OUT_OF_MEMORY = {"error": "out of memory"}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """Measures work on a device, `repeats` times after a warm-up."""

    device: torch.device
    repeats: int

    def seconds(self, work: Callable[[], object]) -> float:
        """The least of the times, each from an idle device until it is idle again."""
        work()
        return min(self._once(work) for _ in range(self.repeats))

    def _once(self, work: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def memory(self, work: Callable[[], object]) -> dict[str, float | None]:
        """MiB that torch holds at the peak of the work, and how many of them were not there before; None without a GPU."""
        if self.device.type != "cuda":
            return {"peak_mib": None, "extra_mib": None}
        self._wait()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self._wait()
        peak = torch.cuda.max_memory_allocated(self.device)
        return {"peak_mib": peak / MIB, "extra_mib": (peak - before) / MIB}

    def rate(self, size: int) -> float:
        """FLOPs a second of the bf16 product of two square matrices of this side."""
        left, right = (torch.randn(size, size, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        out = torch.empty_like(left)

        def work() -> None:
            for _ in range(PRODUCTS):
                torch.matmul(left, right, out=out)

        return PRODUCTS * 2 * size**3 / self.seconds(work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A name, and for each column the name in the JSON, the title and the format."""

    name: str
    columns: tuple[tuple[str, str, str], ...]

    def head(self) -> str:
        return f"| {' | '.join(title for _, title, _ in self.columns)} |\n|{'---|' * len(self.columns)}"

    def line(self, row: Row) -> str:
        """A row in Markdown; what could not be measured is n/a, and an error stands where the seconds would."""
        shown = row | {"seconds": row["error"]} if "error" in row else row
        return f"| {' | '.join(_cell(shown.get(name), form) for name, _, form in self.columns)} |"


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else format(value, form)


class Report:
    """Prints each row as soon as it is there, under the head of its table, and writes it as a line of JSON to `out`."""

    def __init__(self, out: Path | None) -> None:
        self._file = None if out is None else out.open("w", encoding="utf-8")
        self._open: Table | None = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Only the line of JSON."""
        if self._file is not None:
            print(json.dumps(row), file=self._file, flush=True)

    def add(self, table: Table, row: Row) -> None:
        if table is not self._open:
            print(f"\n{table.head()}")
            self._open = table
        print(table.line(row), flush=True)
        self.write({"row": table.name, **row})

    def say(self, sentence: str) -> None:
        print(f"\n{sentence}", flush=True)
        self._open = None

    def attempt(self, table: Table, known: Row, measure: Callable[[], Row]) -> Row:
        """Adds what is known of a case and what `measure` finds, or that the GPU's memory did not suffice; gives the row."""
        try:
            row = known | measure()
        except torch.OutOfMemoryError:
            row = known | OUT_OF_MEMORY
        self.add(table, row)
        free()
        return row


def free() -> None:
    """Give memory that nothing uses back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
