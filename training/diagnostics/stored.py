"""Phases of a diagnostic on disk: a folder each, whole or absent, with its rows, its counts and the fingerprint of all that
decides them. A phase whose fingerprint is unchanged is read and not repeated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.identity import fingerprint
from tasks.storage.checksums import RECORD, Damaged, checksum, sealed, unsealed
from tasks.storage.disk import whole_folder
from tasks.storage.tables import write_rows
from training.diagnostics.command import Log

__all__ = ["Counts", "Made", "Phase", "Store", "counted_rows"]

TABLE = "rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a phase did with its input: units in = kept + dropped by reason. Raises `ValueError` if that does not hold."""

    unit: str
    entering: int
    kept: int
    dropped: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.entering != self.kept + sum(self.dropped.values()):
            raise ValueError(
                f"{self.entering} {self.unit} are not {self.kept} kept and {dict(self.dropped)} dropped"
            )

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.dropped.items())
        return (
            f"{self.entering:,} {self.unit}, {self.kept:,} kept{f', dropped: {reasons}' if reasons else ''}"
        )


def counted_rows(unit: str, rows: Sequence[Any]) -> Counts:
    """Return the counts of rows that have a `reason` where they are dropped."""
    dropped = Counter(row.reason for row in rows if row.reason is not None)
    kept = len(rows) - dropped.total()
    return Counts(unit=unit, entering=len(rows), kept=kept, dropped=dict(sorted(dropped.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The result of a phase: its rows and counts."""

    rows: Iterable[Any]
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A phase on disk."""

    table: Path
    fingerprint: str
    counts: Counts


class Store:
    """The phases in a folder."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.folder, self._log = folder, log

    def phase(
        self,
        name: str,
        row_type: type,
        version: int,
        settings: Mapping[str, Any],
        inputs: tuple[str, ...],
        make: Callable[[], Made],
    ) -> Phase:
        """Return the phase of this name, made by `make` unless it is there with the same settings and inputs."""
        wanted = fingerprint(stage=f"diagnostics/{name}", version=version, settings=settings, inputs=inputs)
        folder = self.folder / name
        found = _read(folder, wanted)
        if found is not None:
            self._log(f"phase {name}: {found.counts} (done before)")
            return found
        made = make()
        with whole_folder(folder, replace=True) as temporary:
            table = temporary / f"{TABLE}.parquet"
            write_rows(table, row_type, made.rows)
            record = {
                "fingerprint": wanted, "counts": asdict(made.counts), "tables": {TABLE: {"xxh3": checksum(table)}},
            }  # fmt: skip
            (temporary / RECORD).write_text(json.dumps(sealed(record), indent=1) + "\n", encoding="utf-8")
        self._log(f"phase {name}: {made.counts}")
        return Phase(table=folder / f"{TABLE}.parquet", fingerprint=wanted, counts=made.counts)


def _read(folder: Path, wanted: str) -> Phase | None:
    """Return the phase in a folder; None if it is absent or damaged, or has another fingerprint."""
    table = folder / f"{TABLE}.parquet"
    try:
        record = unsealed((folder / RECORD).read_bytes())
        if record["fingerprint"] != wanted or checksum(table) != record["tables"][TABLE]["xxh3"]:
            return None
        return Phase(table=table, fingerprint=wanted, counts=Counts(**record["counts"]))
    except (OSError, Damaged, LookupError, TypeError):
        return None
