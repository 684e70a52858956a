"""What the public sources share: settings, reading from the hub or a local copy, reasons for what is left out.

A source is a file with settings (a subclass of `HubSource`: which parts of which data set, columns, tier, licence,
target) and a function that reads one row (`Reader`); `hub_kind` joins the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import xxhash
from pydantic import Field, PositiveInt, model_validator

from tasks.core.answers import extract_answer
from tasks.core.config import PROJECT_ROOT, Settings, resource
from tasks.core.errors import UserError
from tasks.core.rows import Problem, Reject, Role, Tier, problem_id
from tasks.io.hub import HubSplit, commit, files_digest, hub_rows, local_files, local_rows, reach
from tasks.seeds.draw import draw, draw_key
from tasks.seeds.filters import Drop, Fault, text_fault
from tasks.seeds.kinds import KindSettings, Loaded, Outcome, SourceKind

Values = Mapping[str, Any]
"""One row under our names of its columns; None where the row has no such column."""


class Part(Settings):
    """One split of one data set. `benchmark`: people evaluate on it, so that it and all its descendants are flagged."""

    hub_id: str
    split: str
    config: str | None = None
    benchmark: bool = False
    files: tuple[str, ...] = ()  # what its files are called in a local copy (see tasks.io.hub.local_files)

    @property
    def words(self) -> tuple[str, ...]:
        """Names that tell this part's files from others' in a local copy."""
        return self.files or tuple(word for word in (self.config, self.split) if word)


class HubSource(KindSettings):
    """Settings of a public source. The defaults of a subclass are the papers' values.

    `columns` may name only the columns that differ. `revisions` pins a data set to a commit; without one the newest is
    looked up when a run opens, and is part of the fingerprint. `target` problems are drawn in the order of a hash of
    (`seed`, id); None takes all. `drop` are the reasons for which a row is left out. `rows` is the size of the default
    parts where it is known to be less than the target: what a plan counts with before the data set was read.
    """

    required: ClassVar[tuple[str, ...]] = ("text",)
    column_names: ClassVar[Mapping[str, str]] = {}
    rows: ClassVar[int | None] = None
    judged_by_text: ClassVar[tuple[Drop, ...]] = (
        "language",
        "figure",
        "choice",
        "proof",
    )  # where `drop` says so

    parts: tuple[Part, ...] = Field(min_length=1)
    revisions: dict[str, str] = Field(default_factory=dict)
    path: Path | None = resource(None)  # a local copy; its hash is in the fingerprint instead
    columns: dict[str, str] = Field(default_factory=dict)
    tier: Tier
    licence: str
    target: PositiveInt | None
    seed: int = 0
    drop: tuple[Drop, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> HubSource:
        if unknown := sorted(self.columns.keys() - self.column_names.keys()):
            raise ValueError(f"columns has {unknown[0]!r}; this source has {', '.join(self.column_names)}")
        ids = {part.hub_id for part in self.parts}
        if unknown := sorted(self.revisions.keys() - ids):
            raise ValueError(f"revisions names {unknown[0]!r}; this source reads {', '.join(sorted(ids))}")
        return self

    @property
    def all_columns(self) -> dict[str, str]:
        """Our names of the columns -> the data set's."""
        return {**self.column_names, **self.columns}

    @property
    def is_remote(self) -> bool:
        """Whether loading it reads from the hub."""
        return self.path is None

    @property
    def declared(self) -> tuple[Tier, int] | None:
        """The tier, and the target or the size of the default parts, whichever is less."""
        whole = self.rows if "parts" not in self.model_fields_set else None
        counts = [count for count in (self.target, whole) if count is not None]
        return (self.tier, min(counts)) if counts else None

    @property
    def local(self) -> Path | None:
        """The local copy; a relative path counts from the project's folder."""
        return self.path if self.path is None else PROJECT_ROOT / self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a source reads from one row. `fault`: why the row itself says that it is unfit."""

    text: str
    row_id: str | None = None  # unique in the source; None: a hash of the text
    answer: str | None = None  # ground truth, never a model's opinion
    solution: str | None = None
    benchmark: bool = False
    tier: Tier | None = None  # None: the source's
    fault: Fault | None = None


Reader = Callable[[Values, Any, Part], Found]
"""(values, settings, part) -> what the row says."""


def hub_kind(settings: type[HubSource], read: Reader) -> SourceKind:
    """The kind of source that reads `settings.parts` with `read`."""
    return SourceKind(
        settings=settings,
        load=lambda source: load(source, read),
        digest=digest,
        check=lambda source: check(source, read),
    )


def load(source: HubSource, read: Reader) -> Loaded:
    """The drawn rows of all parts. `UserError` when the hub cannot be reached or a file is damaged."""

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
    """Reach every part and read its first row."""
    for part in source.parts:
        if source.local is None:
            reach(source.name, part.hub_id, source.revisions.get(part.hub_id))
        for values in islice(part_rows(source, part), 1):
            read(values, source, part)


def digest(source: HubSource) -> str:
    """The commit of every data set, or the hash of the files of a local copy."""
    if (root := source.local) is not None:
        return ",".join(files_digest(_files(source, part, root), root) for part in source.parts)
    ids = dict.fromkeys(part.hub_id for part in source.parts)
    return ",".join(f"{hub_id}@{_commit(source, hub_id)}" for hub_id in ids)


# --- from rows to outcomes ---------------------------------------------------------------------------------------


def part_rows(source: HubSource, part: Part) -> Iterator[Values]:
    """Rows of one part under our names. `UserError` when a required column is not there, or there is no row at all."""
    columns, empty = source.all_columns, True
    for row in _raw_rows(source, part, tuple(columns.values())):
        if empty:
            _check_columns(source, part, row)
            empty = False
        yield {ours: row.get(theirs) for ours, theirs in columns.items()}
    if empty:
        where = "/".join(part.words)
        raise UserError(f"Source {source.name}: {where} holds no rows: correct its path or parts.")


def _raw_rows(source: HubSource, part: Part, columns: tuple[str, ...] = ()) -> Iterator[Values]:
    if (root := source.local) is not None:
        for file in _files(source, part, root):
            yield from local_rows(file, columns)
    else:
        split = HubSplit(source=source.name, hub_id=part.hub_id, config=part.config, split=part.split)
        yield from hub_rows(split, _commit(source, part.hub_id), columns)


def _check_columns(source: HubSource, part: Part, row: Values) -> None:
    for ours in source.required:
        if (theirs := source.all_columns[ours]) not in row:
            there = next(_raw_rows(source, part))
            raise UserError(
                f"Source {source.name}: {part.hub_id} ({'/'.join(part.words)}) has no column {theirs!r} for the {ours};"
                f" it has {', '.join(there)}: correct the columns of this source, e.g. columns: {{{ours}: {next(iter(there))}}}."
            )


def _files(source: HubSource, part: Part, root: Path) -> tuple[Path, ...]:
    return local_files(source.name, root, part.words, alone=len(source.parts) == 1)


def _commit(source: HubSource, hub_id: str) -> str:
    return commit(source.name, hub_id, source.revisions.get(hub_id))


def identified(found: Found) -> Found:
    """The row with an id: its own, or a hash of its text, which no other order of the rows changes."""
    if found.row_id is not None:
        return found
    return replace(found, row_id=xxhash.xxh3_64_hexdigest(found.text.encode("utf-8", "surrogatepass")))


def outcome(found: Found, source: HubSource) -> Outcome:
    """The row as a seed or curated problem, or why it is none."""
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
    """What the row's own columns say against it."""
    if found.fault is not None and found.fault.drop in source.drop:
        return found.fault
    if source.role == "curated" and not found.answer:
        return Fault(drop="no_answer", detail="a curated problem needs an answer")
    return None


# --- what readers use --------------------------------------------------------------------------------------------


def written(value: Any) -> str:
    """A cell as text: None is empty, numbers as they print, half characters (lone surrogates) replaced."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8").strip()


def final_answer(value: Any) -> str | None:
    r"""The answer in a cell that holds an answer: what the last balanced `\boxed{...}` of it holds, or all of it without
    the dollar signs around it. None when it is empty. A float that is whole loses its `.0`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = written(value)
    boxed = extract_answer(text)
    if boxed is not None:
        return boxed
    if text.startswith("$") and text.endswith("$") and text.count("$") == 2:
        text = text[1:-1].strip()
    return text or None


def no_box(solution: Any) -> Fault | None:
    r"""Why a solution without a balanced `\boxed{...}` makes a row unfit, where such rows are dropped."""
    if extract_answer(written(solution)) is not None:
        return None
    return Fault(drop="no_answer", detail="the solution has no boxed answer")
