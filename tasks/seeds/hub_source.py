"""The common part of the public sources: settings, reading from the hub or a local copy, reasons for rejects.

A source is a file with settings (a subclass of `HubSource`: parts of the data set, columns, tier, licence, target) and a
function that reads one row (`Reader`); `hub_kind` combines the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import xxhash
from pydantic import Field, PositiveInt, model_validator

from tasks.answers.extraction import extract_answer
from tasks.answers.gold import written
from tasks.config import PROJECT_ROOT, Settings, resource
from tasks.errors import UserError
from tasks.rows import Problem, Reject, Role, Tier, problem_id
from tasks.seeds.draw import draw, draw_key
from tasks.seeds.filters import Drop, Fault, text_fault
from tasks.seeds.kinds import KindSettings, Loaded, SeedOutcome, SourceKind
from tasks.storage.hub import HubSplit, commit, files_digest, hub_rows, local_files, local_rows, reach

Values = Mapping[str, Any]
"""One row under SURE-Math's column names; None for a column that the row does not have."""


class HubPart(Settings):
    """One split of one data set. `benchmark`: models are evaluated on it, so it and all its descendants are flagged."""

    hub_id: str
    split: str
    config: str | None = None
    benchmark: bool = False
    files: tuple[str, ...] = ()  # names of its files in a local copy (see tasks.storage.hub.local_files)

    @property
    def words(self) -> tuple[str, ...]:
        """Names that distinguish this part's files from those of other parts in a local copy."""
        return self.files or tuple(word for word in (self.config, self.split) if word)


class HubSource(KindSettings):
    """Settings of a public source. The defaults of a subclass are the papers' values.

    `columns` needs to list only columns whose names differ. `revisions` pins a data set to a commit; without it the
    newest commit is looked up at the start of a run. Either way the commit is part of the fingerprint. `target` problems
    are drawn in the order of a hash of (`seed`, id); None takes all. `drop` lists the reasons for rejecting a row.
    `rows` is the size of the default parts if it is known to be below the target; a plan uses it before the data set is
    read.
    """

    required: ClassVar[tuple[str, ...]] = ("text",)
    column_names: ClassVar[Mapping[str, str]] = {}
    rows: ClassVar[int | None] = None
    judged_by_text: ClassVar[tuple[Drop, ...]] = ("language", "figure", "choice", "proof")  # if in `drop`

    parts: tuple[HubPart, ...] = Field(min_length=1)
    revisions: dict[str, str] = Field(default_factory=dict)
    path: Path | None = resource(None)  # a local copy; the fingerprint contains its hash instead
    columns: dict[str, str] = Field(default_factory=dict)
    tier: Tier
    licence: str
    target: PositiveInt | None
    seed: int = 0
    drop: tuple[Drop, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> HubSource:
        if unknown := sorted(self.columns.keys() - self.column_names.keys()):
            raise ValueError(f"columns has unknown key {unknown[0]!r}: use {', '.join(self.column_names)}")
        ids = {part.hub_id for part in self.parts}
        if unknown := sorted(self.revisions.keys() - ids):
            raise ValueError(f"revisions has unknown data set {unknown[0]!r}: use {', '.join(sorted(ids))}")
        return self

    @property
    def all_columns(self) -> dict[str, str]:
        """Return {SURE-Math's column name: the data set's column name}."""
        return {**self.column_names, **self.columns}

    @property
    def is_remote(self) -> bool:
        """Whether loading this source reads from the hub."""
        return self.path is None

    @property
    def declared(self) -> tuple[Tier, int] | None:
        """The tier, and the smaller of the target and the size of the default parts."""
        whole = self.rows if "parts" not in self.model_fields_set else None
        counts = [count for count in (self.target, whole) if count is not None]
        return (self.tier, min(counts)) if counts else None

    @property
    def local(self) -> Path | None:
        """The local copy, if any; a relative path is relative to the project's folder."""
        return self.path if self.path is None else PROJECT_ROOT / self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The content of one row. `fault`: a reason for rejecting the row, found in the row itself."""

    text: str
    row_id: str | None = None  # unique within the source; None: a hash of the text
    answer: str | None = None  # ground truth, never a model's answer
    solution: str | None = None
    benchmark: bool = False
    tier: Tier | None = None  # None: the tier of the source
    fault: Fault | None = None


Reader = Callable[[Values, Any, HubPart], Found]
"""(values, settings, part) -> the content of the row."""


def hub_kind(settings: type[HubSource], read: Reader) -> SourceKind:
    """Return the kind of source that reads `settings.parts` with `read`."""
    return SourceKind(
        settings=settings,
        load=lambda source: load(source, read),
        digest=digest,
        check=lambda source: check(source, read),
    )


def load(source: HubSource, read: Reader) -> Loaded:
    """Load the drawn rows of all parts. Raises `UserError` if the hub is unreachable or a file is damaged."""

    def found() -> Iterator[Found]:
        for part in source.parts:
            for values in part_rows(source, part):
                yield identified(read(values, source, part))

    return draw(
        found(),
        key=lambda row: draw_key(source.seed, row.row_id or ""),
        outcome=lambda row: outcome(row, source),
        target=source.target,
    )


def check(source: HubSource, read: Reader) -> None:
    """Read the first row of every part, to detect errors early."""
    for part in source.parts:
        if source.local is None:
            reach(source.name, part.hub_id, source.revisions.get(part.hub_id))
        for values in islice(part_rows(source, part), 1):
            read(values, source, part)


def digest(source: HubSource) -> str:
    """Return the commit of every data set, or the hash of the files of a local copy."""
    if (root := source.local) is not None:
        return ",".join(files_digest(_files(source, part, root), root) for part in source.parts)
    ids = dict.fromkeys(part.hub_id for part in source.parts)
    return ",".join(f"{hub_id}@{_commit(source, hub_id)}" for hub_id in ids)


# --- from rows to outcomes ---------------------------------------------------------------------------------------


def part_rows(source: HubSource, part: HubPart) -> Iterator[Values]:
    """Yield the rows of one part under SURE-Math's column names.

    Raises `UserError` if a required column is missing, or if there are no rows.
    """
    columns, empty = source.all_columns, True
    for row in _raw_rows(source, part, tuple(columns.values())):
        if empty:
            _check_columns(source, part, row)
            empty = False
        yield {ours: row.get(theirs) for ours, theirs in columns.items()}
    if empty:
        where = "/".join(part.words)
        raise UserError(f"Source {source.name}: {where} has no rows: correct its path or parts.")


def _raw_rows(source: HubSource, part: HubPart, columns: tuple[str, ...] = ()) -> Iterator[Values]:
    if (root := source.local) is not None:
        for file in _files(source, part, root):
            yield from local_rows(file, columns)
    else:
        split = HubSplit(source=source.name, hub_id=part.hub_id, config=part.config, split=part.split)
        yield from hub_rows(split, _commit(source, part.hub_id), columns)


def _check_columns(source: HubSource, part: HubPart, row: Values) -> None:
    for ours in source.required:
        if (theirs := source.all_columns[ours]) not in row:
            there = next(_raw_rows(source, part))
            raise UserError(
                f"Source {source.name}: {part.hub_id} ({'/'.join(part.words)}) has no column {theirs!r} for the {ours};"
                f" it has {', '.join(there)}: correct the columns of this source, e.g. columns: {{{ours}: {next(iter(there))}}}."
            )


def _files(source: HubSource, part: HubPart, root: Path) -> tuple[Path, ...]:
    return local_files(source.name, root, part.words, alone=len(source.parts) == 1)


def _commit(source: HubSource, hub_id: str) -> str:
    return commit(source.name, hub_id, source.revisions.get(hub_id))


def identified(found: Found) -> Found:
    """Return the row with an id: its own, or a hash of its text, which does not depend on the order of the rows."""
    if found.row_id is not None:
        return found
    return replace(found, row_id=xxhash.xxh3_64_hexdigest(found.text.encode("utf-8", "surrogatepass")))


def outcome(found: Found, source: HubSource) -> SeedOutcome:
    """Return the row as a seed or curated problem, or as a reject."""
    source_id = found.row_id or ""
    row_id = problem_id(source=source.name, origin=source_id, strategy="", text=found.text)
    curated = source.role == "curated"
    fault = text_fault(found.text, set(source.drop) & set(source.judged_by_text)) or _row_fault(found, source)
    if fault is not None:
        return Reject(
            problem_id=row_id, stage="aggregate", reason=fault.reason, text=written(found.text[:2000]),
            detail=written(f"{source.name} {source_id}: {fault.detail}"),
        )  # fmt: skip
    return Problem(
        id=row_id,
        text=found.text,
        tier=found.tier or source.tier,
        source=source.name,
        source_id=source_id,
        licence=source.licence,
        role=Role(source.role),
        root_id=row_id,
        answer=found.answer,
        solution=found.solution if curated else None,
        benchmark_root=found.benchmark,
    )


def _row_fault(found: Found, source: HubSource) -> Fault | None:
    """Return the fault given by the row's own columns, if any."""
    if found.fault is not None and found.fault.drop in source.drop:
        return found.fault
    if source.role == "curated" and not found.answer:
        return Fault(drop="no_answer", detail="a curated problem needs an answer")
    return None


# --- helpers for readers -----------------------------------------------------------------------------------------


def no_box(solution: Any) -> Fault | None:
    r"""Return the fault of a solution without a balanced `\boxed{...}`, or None if it has one."""
    if extract_answer(written(solution)) is not None:
        return None
    return Fault(drop="no_answer", detail="the solution has no boxed answer")
