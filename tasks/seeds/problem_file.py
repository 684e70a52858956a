"""Problems of a file, row by row: the chosen columns as text, and all rows that cannot be used in one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.rows import Tier
from tasks.seeds.cells import Unusable, answer_of, check_text, number_text, solution_of, text_of
from tasks.seeds.columns import Column, Selection, value_at
from tasks.storage.input_files import no_problems, read_records
from tasks.storage.records import Fault, Faults, Record

REQUIRED = ("text",)
"""Fields that every problem has."""
_TIERS = ", ".join(Tier)
_READ: Mapping[Column, Callable[[Any], str | None]] = {
    "text": text_of, "answer": answer_of, "solution": solution_of, "id": number_text, "tier": number_text,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RawProblem:
    """One problem as read from a file. `line` counts from 1 (lines of a text file, rows of a table); `others` has the columns of
    the row whose value is not one of the other fields."""

    line: int
    where: str  # "line 7"
    source_id: str | None  # None: the file has no id column, or the id is empty
    text: str
    answer: str | None
    solution: str | None
    tier: Tier
    others: Mapping[str, Any]


def read_problem_file(
    path: Path, columns: Mapping[Column, str], *, tier: Tier | None = None, limit: int | None = None,
    answers_required: bool = False,
) -> Iterator[RawProblem]:  # fmt: skip
    """Yield the problems of a file whose columns are declared, lazily, in file order, at most `limit` of them.

    `columns` maps `text` (required), `answer`, `solution`, `id` and `tier` to the file's column names, which every row must
    have; `tier` is the default for rows without one. Ids must be given and unique; `answer` and `solution` may be null (`answer`
    not if `answers_required`).

    Raises `UserError` for a file that is missing, empty, damaged or of an unsupported type, for a row without one of the columns,
    and, at the end, with all other rows that cannot be used.
    """
    asked = frozenset(columns)
    selection = Selection(paths={ours: ((name,),) for ours, name in columns.items()}, asked=asked)
    required = [*REQUIRED, *(["id"] if "id" in asked else []), *(["answer"] if answers_required else [])]
    seen: dict[str, str] = {}

    def checked(record: Record) -> RawProblem:
        for ours, theirs in columns.items():
            if theirs not in record.values:
                there = ", ".join(record.values) or "none"
                raise UserError(
                    f"{path}, {record.where} has no column {theirs!r} for the {ours}; it has {there}: correct the columns of"
                    " this source."
                )
        raw = raw_problem(record, selection, tier, required)
        if raw.source_id is not None and seen.setdefault(raw.source_id, raw.where) != raw.where:
            raise Unusable(
                f" repeats the id {raw.source_id!r} of {seen[raw.source_id]}: give every problem a unique id"
            )
        return raw

    yield from read_rows(path, read_records(path), checked, limit)


def read_rows(
    path: Path,
    records: Iterable[Record | Fault],
    read: Callable[[Record], RawProblem],
    limit: int | None = None,
    left_out: Faults | None = None,
) -> Iterator[RawProblem]:
    """Yield `read` of the rows of a file, at most `limit` rows, until one cannot be used. `path` names the file in messages.

    Raises `UserError` at the end with all rows that cannot be used (`read` raised `Unusable`), or if there are no rows. With
    `left_out`, rows that cannot be used are added to it, and all others are yielded.
    """
    faults, empty = Faults(path) if left_out is None else left_out, True
    for row in islice(records, limit):
        empty = False
        if isinstance(row, Fault):
            faults.add(row.sentence)
            continue
        try:
            raw = read(row)
        except Unusable as error:
            faults.add(f"{row.where}{error}.")
            continue
        if not faults.count or left_out is not None:
            yield raw
    if left_out is None:
        faults.raise_any()
    if empty and limit != 0:
        raise no_problems(path)


def raw_problem(
    record: Record, selection: Selection, tier: Tier | None, required: Sequence[str]
) -> RawProblem:
    """Return the problem of a row. Raises `Unusable` if a required field is empty, or a field that the user asked for, the text
    or the answer cannot be used; an id or solution that was found by its name is then None."""
    names = selection.names()
    values: dict[str, str | None] = {
        ours: _field(record, ours, names[ours], selection) for ours in selection.paths
    }
    for ours in required:
        if not (values.get(ours) or "").strip():
            raise Unusable(f" has an empty {ours} (column {names.get(ours)!r}): fill it in or remove the row")
    return RawProblem(
        line=record.line,
        where=record.where,
        source_id=(values.get("id") or "").strip() or None,
        text=values["text"] or "",
        answer=values.get("answer"),
        solution=values.get("solution"),
        tier=_tier(values.get("tier"), tier),
        others=_others(record, selection, values),
    )


def _field(record: Record, ours: Column, name: str, selection: Selection) -> str | None:
    try:
        texts = [_READ[ours](value_at(record.values, path)) for path in selection.paths[ours]]
        found = texts[0] if len(texts) == 1 else "\n".join(filter(None, texts))
        check_text(found or "")
    except Unusable as error:
        if ours in ("id", "solution") and ours not in selection.asked:
            return None
        raise Unusable(f": the {ours} (column {name!r}) {error}") from error
    return found


def _tier(value: str | None, default: Tier | None) -> Tier:
    if not (value or "").strip() and default is not None:
        return default
    name = (value or "").strip().lower()
    if name not in list(Tier):
        raise Unusable(f" has the tier {value!r}: use one of {_TIERS}")
    return Tier(name)


def _others(record: Record, selection: Selection, fields: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the columns whose value is not exactly a field of the problem. A solution is not a column of the dataset."""
    taken = {
        paths[0][0]: fields[ours]
        for ours, paths in selection.paths.items()
        if ours != "solution" and len(paths) == len(paths[0]) == 1
    }
    return {
        name: value
        for name, value in record.values.items()
        if not (name in taken and (value is None or str(value) == taken[name]))
    }
