"""A local file of problems as a problem source, with a column mapping."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from tasks.config import PROJECT_ROOT, resource
from tasks.rows import Problem, Role, Tier, problem_id
from tasks.seeds.columns import Column
from tasks.seeds.kinds import KindSettings, Loaded, SourceKind
from tasks.seeds.problem_file import RawProblem, read_problem_file
from tasks.storage.input_files import input_digest


class FileSource(KindSettings):
    """A local file in a format of `tasks.storage.input_files`, or a folder that `save_to_disk` of datasets wrote.

    `columns` maps SURE-Math's column names (text, answer, solution, id, tier) to the file's.
    """

    kind: Literal["file"] = "file"
    name: str = Field(min_length=1)
    path: Path = resource()  # the fingerprint contains the hash of the content instead
    columns: dict[Column, str] = Field(default_factory=lambda: {"text": "text"})
    tier: Tier | None = None  # for files without a tier column
    licence: str = "unknown"
    benchmark: bool = False
    limit: PositiveInt | None = None

    @property
    def declared(self) -> tuple[Tier | None, int] | None:
        """Tier and limit, if both are given; the limit alone for curated problems with a tier column."""
        if self.limit is None or (self.tier is None and self.role != "curated"):
            return None
        return self.tier, self.limit

    @model_validator(mode="after")
    def _columns_make_sense(self) -> FileSource:
        if "text" not in self.columns:
            raise ValueError("columns must name the column with the text, e.g. columns: {text: question}")
        if self.tier is None and "tier" not in self.columns:
            raise ValueError("set tier (easy, medium, hard, competition) or name a tier column in columns")
        if self.role == "curated" and "answer" not in self.columns:
            raise ValueError("a curated source needs an answer column: name it in columns")
        return self


def load(source: FileSource) -> Loaded:
    """Load all rows of the file, at most `limit`.

    A row's id depends on its id column, if there is one, and otherwise only on its text, so inserting a line does not
    change the requests of other rows.
    """
    rows = tuple(problems(source))
    return Loaded(outcomes=rows, seen=len(rows))


def check(source: FileSource) -> None:
    """Read the whole file, so that an invalid line is reported before the run and not after hours."""
    for _ in problems(source):
        pass


def problems(source: FileSource) -> Iterator[Problem]:
    """Yield one problem per line. Raises `UserError` with file, line and remedy for invalid lines."""
    rows = read_problem_file(
        resolved(source), source.columns, tier=source.tier, limit=source.limit,
        answers_required=source.role == "curated",
    )  # fmt: skip
    return (_row(source, raw) for raw in rows)


def _row(source: FileSource, raw: RawProblem) -> Problem:
    row_id = problem_id(source=source.name, origin=raw.source_id or "", strategy="", text=raw.text)
    curated = source.role == "curated"
    return Problem(
        id=row_id,
        text=raw.text,
        tier=raw.tier,
        source=source.name,
        source_id=raw.source_id or str(raw.line),
        licence=source.licence,
        role=Role(source.role),
        root_id=row_id,
        answer=raw.answer if curated else None,
        solution=raw.solution if curated else None,
        benchmark_root=source.benchmark,
    )


def digest(source: FileSource) -> str:
    """Return the SHA-256 of the file."""
    return input_digest(resolved(source))


def resolved(source: FileSource) -> Path:
    """Return the file's absolute path; a relative path is relative to the project's folder."""
    return source.path if source.path.is_absolute() else PROJECT_ROOT / source.path


SOURCE = SourceKind(settings=FileSource, load=load, digest=digest, check=check)
