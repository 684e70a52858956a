"""Measurement of time and memory, and printing of tables, for gpu.py."""

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
PRODUCTS = 10  # square products per timing, to make the launch overhead negligible
OUT_OF_MEMORY = {"error": "out of memory"}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """Measures functions on a device, `repeats` times after a warm-up."""

    device: torch.device
    repeats: int

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the minimum time in seconds; the device is synchronised before and after each run."""
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
        """Return torch's peak allocation during `work` and its increase over the allocation before, in MiB; None on CPU."""
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
        """Return the FLOPs per second of the bf16 product of two square matrices with `size` rows."""
        left, right = (torch.randn(size, size, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        out = torch.empty_like(left)

        def work() -> None:
            for _ in range(PRODUCTS):
                torch.matmul(left, right, out=out)

        return PRODUCTS * 2 * size**3 / self.seconds(work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table: its name, and (name in the JSON, title, format) of each column."""

    name: str
    columns: tuple[tuple[str, str, str], ...]

    def head(self) -> str:
        return f"| {' | '.join(title for _, title, _ in self.columns)} |\n|{'---|' * len(self.columns)}"

    def line(self, row: Row) -> str:
        """Return a row in Markdown. Missing values are n/a; an error message replaces the seconds."""
        shown = row | {"seconds": row["error"]} if "error" in row else row
        return f"| {' | '.join(_cell(shown.get(name), form) for name, _, form in self.columns)} |"


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else format(value, form)


class Report:
    """Prints each row immediately, under the heading of its table, and writes it to `out` as a line of JSON."""

    def __init__(self, out: Path | None) -> None:
        self._file = None if out is None else out.open("w", encoding="utf-8")
        self._open: Table | None = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row as a line of JSON without printing it."""
        if self._file is not None:
            print(json.dumps(row), file=self._file, flush=True)

    def add(self, table: Table, row: Row) -> None:
        if table is not self._open:
            print(f"\n{table.head()}")
            self._open = table
        print(table.line(row), flush=True)
        self.write({"row": table.name, **row})

    def log_line(self, sentence: str) -> None:
        print(f"\n{sentence}", flush=True)
        self._open = None

    def attempt(self, table: Table, known: Row, measure: Callable[[], Row]) -> Row:
        """Add and return a row of `known` and the results of `measure`, or of an error if the GPU runs out of memory."""
        try:
            row = known | measure()
        except torch.OutOfMemoryError:
            row = known | OUT_OF_MEMORY
        self.add(table, row)
        free()
        return row


def free() -> None:
    """Release unused memory to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
