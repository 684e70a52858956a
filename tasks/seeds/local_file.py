"""Anybody's .jsonl or .parquet file as a seed source, with a column mapping."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.core.config import PROJECT_ROOT, FileSource
from tasks.core.rows import Problem, Role, problem_id
from tasks.io.seed_files import RawProblem, file_digest, read_problem_file


def problems(source: FileSource) -> Iterator[Problem]:
    """One row per line. Raises `UserError` with file, line and remedy for what cannot be read."""
    rows = read_problem_file(
        resolved(source), source.columns, tier=source.tier, limit=source.limit,
        answers_required=source.role == "curated",
    )  # fmt: skip
    return (_row(source, raw) for raw in rows)


def _row(source: FileSource, raw: RawProblem) -> Problem:
    row_id = problem_id(source=source.name, origin=raw.source_id, strategy="", text=raw.text)
    curated = source.role == "curated"
    return Problem(
        id=row_id,
        text=raw.text,
        tier=raw.tier,
        source=source.name,
        source_id=raw.source_id,
        licence=source.licence,
        role=Role(source.role),
        root_id=row_id,
        answer=raw.answer if curated else None,
        solution=raw.solution if curated else None,
        benchmark_root=source.benchmark,
    )


def digest(source: FileSource) -> str:
    """SHA-256 of the file."""
    return file_digest(resolved(source))


def resolved(source: FileSource) -> Path:
    """The file's absolute path; a relative one counts from the project's folder."""
    return source.path if source.path.is_absolute() else PROJECT_ROOT / source.path
