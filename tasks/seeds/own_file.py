"""The user's own problems, which are annotated unchanged: they are not seeds, and nothing is evolved from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from tasks.errors import UserError
from tasks.rows import Problem, Reason, Reject, Role, Tier, problem_id
from tasks.seeds.kinds import Loaded, SeedOutcome
from tasks.storage.seed_files import Column, RawProblem, file_columns, file_digest, read_problem_file

COLUMNS: tuple[Column, ...] = get_args(Column)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFile:
    """A .jsonl, .csv or .parquet file of problems.

    `columns` maps SURE-Math's column names (text, answer, solution, id, tier) to the file's. `tier` applies to rows
    without a tier.
    """

    path: Path
    columns: Mapping[Column, str]
    tier: Tier = Tier.MEDIUM
    licence: str = "unknown"

    @property
    def source(self) -> str:
        """The name of the source in every row."""
        return self.path.stem

    def identity(self) -> dict[str, object]:
        """Return everything that determines the rows: the file's content and the settings for reading it."""
        return {
            "file": file_digest(self.path), "source": self.source, "columns": dict(self.columns),
            "tier": self.tier.value, "licence": self.licence,
        }  # fmt: skip


def own_file(
    path: Path, columns: Mapping[str, str] | None = None, tier: Tier = Tier.MEDIUM, licence: str = "unknown"
) -> OwnFile:
    """Return the file with its columns; those with SURE-Math's names are found without `columns`.

    Raises `UserError` for an unknown target column, for a column that is not in the file, or if there is no text column.
    """
    given = dict(columns or {})
    if unknown := sorted(given.keys() - set(COLUMNS)):
        raise UserError(f"unknown target column {unknown[0]!r}: choose one of {', '.join(COLUMNS)}")
    there = file_columns(path)
    if absent := sorted(theirs for theirs in given.values() if theirs not in there):
        raise UserError(
            f"{path} has no column {absent[0]!r}; it has {', '.join(there) or 'none'}: correct its name"
        )
    chosen: dict[Column, str] = {}
    for ours in COLUMNS:
        if ours in given or ours in there:
            chosen[ours] = given.get(ours, ours)
    if "text" not in chosen:
        raise UserError(
            f"{path} has no column 'text'; it has {', '.join(there) or 'none'}: name the one with the problem, e.g. text="
            f"{there[0] if there else 'question'}"
        )
    return OwnFile(path=path, columns=chosen, tier=tier, licence=licence)


def load(file: OwnFile) -> Loaded:
    """Load every row as a problem, or as a reject if its text is a duplicate.

    A row's id depends on its id column, if there is one, and otherwise only on its text, so inserting a line does not
    change other rows. Raises `UserError` with file, line and remedy for invalid lines.
    """
    first: dict[str, int] = {}
    rows = read_problem_file(file.path, file.columns, tier=file.tier, sparse=True)
    outcomes = tuple(_outcome(file, raw, first) for raw in rows)
    return Loaded(outcomes=outcomes, seen=len(outcomes))


def _outcome(file: OwnFile, raw: RawProblem, first: dict[str, int]) -> SeedOutcome:
    origin = raw.source_id if "id" in file.columns else ""
    row_id = problem_id(source=file.source, origin=origin, strategy="", text=raw.text)
    line = first.setdefault(row_id, raw.line)
    if line != raw.line:
        return Reject(
            problem_id=row_id, stage="problems", reason=Reason.EXACT_DUPLICATE,
            detail=f"line {raw.line} is the same text as line {line}", text=raw.text[:2000],
        )  # fmt: skip
    return Problem(
        id=row_id,
        text=raw.text,
        tier=raw.tier,
        source=file.source,
        source_id=raw.source_id,
        licence=file.licence,
        role=Role.GIVEN,
        root_id=row_id,
        answer=raw.answer if (raw.answer or "").strip() else None,
        solution=raw.solution,
    )
