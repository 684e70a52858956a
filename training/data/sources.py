"""The training problems of a run: an exported dataset, or a local file or a data set on the hub as it is.

A file is read as `make annotate` reads it (`tasks.seeds.own_file`): columns by name, entries of objects, chats, gold answers in a
known form. A row that cannot be used is an error with its place, unless such rows are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from prompts import MAX_VALUE_CHARS
from tasks.errors import UserError
from tasks.rows import Problem
from tasks.seeds.answer_forms import is_comparable, read_answers
from tasks.seeds.columns import Wording, select_columns
from tasks.seeds.intake import text_key
from tasks.seeds.own_file import OwnFile, distinct, read_own
from tasks.seeds.problem_file import RawProblem
from tasks.storage.hub import HubSplit, commit, hub_rows
from tasks.storage.input_files import Survey, input_digest, no_problems, survey
from tasks.storage.records import Faults, Record
from tasks.text import counted
from training.config import DatasetSettings, project_path
from training.data.rows import Dataset, TrainingRow, read_dataset
from training.dataset_settings import SourceSettings

__all__ = ["hold_out", "read_data"]

_TEXT = "problem"  # the name of the field `text` in the settings of a run
_VERBATIM = "dataset.answers verbatim"
UNUSABLE = "rows that cannot be used"
REPEATED = "rows that repeat the text of another row"
TOO_LONG = f"rows with a text of more than {MAX_VALUE_CHARS:,} characters"


def _columns_setting(named: Mapping[str, str]) -> str:
    ours = {_TEXT if name == "text" else name: column for name, column in named.items()}
    return f"dataset.source.columns {json.dumps(ours, ensure_ascii=False)}"


_WORDING = Wording(columns=_columns_setting, verbatim=_VERBATIM, incomparable="they cannot be labels")


def read_data(settings: DatasetSettings) -> Dataset:
    """Read the rows of the dataset or the source, with final answers unless `settings.answers` is `verbatim`.

    Raises the errors of `read_dataset`, and of a source `UserError` if it cannot be read, lacks the column of the problem, or has
    rows that cannot be used; these are listed with their places.
    """
    if settings.source is not None:
        return _read_source(settings.source, settings)
    data = read_dataset(settings)
    return data if settings.answers == "verbatim" else _with_final_answers(data)


def _with_final_answers(data: Dataset) -> Dataset:
    golds, notices = read_answers([row.answer for row in data.rows])
    rows = [
        replace(row, answer=gold.answer, solution=row.solution or gold.solution)
        for row, gold in zip(data.rows, golds, strict=True)
    ]
    told = tuple(f"{one}; {_VERBATIM} takes the column as it is written" for one in notices)
    return replace(data, rows=tuple(rows), notices=(*data.notices, *told))


# --- sources -----------------------------------------------------------------------------------------------------


def _opened(source: SourceSettings, settings: DatasetSettings) -> OwnFile:
    """Return the file or data set with its columns."""
    if source.path is not None:
        path, records = project_path(source.path), None
        found = survey(path)
    else:
        path, records = Path(source.hub_id or ""), _hub_records(source)
        found = Survey(columns=_first_values(records), notices=())
        if not records:
            raise no_problems(path)
    columns = _columns(source, found.columns)
    return OwnFile(
        path=path, selection=select_columns(path, columns, found.columns, _WORDING), survey=found, answers=settings.answers,
        records=records, wording=_WORDING,
    )  # fmt: skip


def _hub_records(source: SourceSettings) -> tuple[Record, ...]:
    found = list[Record]()
    for config in source.configs:
        split = HubSplit(
            source="dataset.source", hub_id=source.hub_id or "", config=config, split=source.split
        )
        where = "row" if config is None else f"{config}, row"
        rows, before = enumerate(hub_rows(split, _commit(source)), 1), len(found)
        found += (Record(where=f"{where} {line}", line=before + line, values=row) for line, row in rows)
    return tuple(found)


def _first_values(records: Sequence[Record]) -> dict[str, Any]:
    """Return the columns, each with its first value that is not null."""
    columns: dict[str, Any] = {}
    for record in records:
        for name, value in record.values.items():
            if columns.get(name) is None:
                columns[name] = value
    return columns


def _columns(source: SourceSettings, there: Mapping[str, Any]) -> dict[str, str]:
    """Return the given columns under the names of `tasks.seeds`. A column `problem` is the text unless another is named."""
    given = {"text" if ours == _TEXT else str(ours): column for ours, column in source.columns.items()}
    if "text" not in given and any(name.strip().casefold() == _TEXT for name in there):
        given["text"] = _TEXT
    return given


def _read_source(source: SourceSettings, settings: DatasetSettings) -> Dataset:
    file = _opened(source, settings)
    bad = Faults(file.path)
    rows, notices = read_own(file, None if settings.without == "refuse" else bad)
    problems = list(distinct(file, rows).values())
    long = [problem for problem in problems if len(problem.text) > MAX_VALUE_CHARS]
    if long and settings.without == "refuse":
        raise UserError(_long_problem(file, rows, long))
    tiers = "tier" in file.selection.paths
    used = [_row(problem, tiers) for problem in problems if len(problem.text) <= MAX_VALUE_CHARS]
    if not used:
        raise UserError(f"{file.path} has only {TOO_LONG}: name another column as the problem")
    counts = {UNUSABLE: bad.count, REPEATED: len(rows) - len(problems), TOO_LONG: len(long)}
    notices += [f"left out: {sentence}" for sentence in bad.first]
    return Dataset(
        name=_name(source),
        folder=None,
        manifest=None,
        rows=tuple(sorted(used, key=lambda row: row.id)),
        read=len(rows) + bad.count,
        left_out={what: count for what, count in counts.items() if count},
        origin=_origin(source),
        notices=tuple(notices),
    )


def _long_problem(file: OwnFile, rows: Sequence[RawProblem], long: Sequence[Problem]) -> str:
    where = next(row.where for row in rows if row.text == long[0].text)
    more = f" (and {counted(len(long) - 1, 'more problem')})" if len(long) > 1 else ""
    return (
        f"{file.path}, {where} has a text of {len(long[0].text):,} characters, more than a prompt takes"
        f" ({MAX_VALUE_CHARS:,}){more}: remove these rows, or set dataset.without to leave_out"
    )


def _row(problem: Problem, tiers: bool) -> TrainingRow:
    """Return the training row of a problem. Its id is the source's own or a hash of its text, whatever the file's name is."""
    return TrainingRow(
        id=problem.source_id, text=problem.text, tier=problem.tier.value if tiers else None, answer=problem.answer,
        majority_answer=None, semantic_entropy=None, weight=None, pass_rate=None, solution=problem.solution,
        source=problem.source, source_id=problem.source_id,
    )  # fmt: skip


def _name(source: SourceSettings) -> str:
    if source.path is not None:
        return source.path.name
    parts = (source.hub_id, *source.configs, source.split)
    return ", ".join(part for part in parts if part)


def _origin(source: SourceSettings) -> str:
    """Return what identifies the content of the source: a file's SHA-256, or a data set's commit."""
    if source.path is not None:
        return f"sha256:{input_digest(project_path(source.path))}"
    return f"{source.hub_id}@{_commit(source)}"


def _commit(source: SourceSettings) -> str:
    return commit("dataset.source", source.hub_id or "", source.revision)


# --- held-out problems -------------------------------------------------------------------------------------------


def hold_out(
    rows: Sequence[TrainingRow], count: int
) -> tuple[tuple[TrainingRow, ...], tuple[TrainingRow, ...]]:
    """Return the rows to train on, and `count` rows to evaluate on: those with an answer that can be compared whose texts have
    the smallest hashes. The choice depends on the texts alone, and texts that differ in case and spacing are one.

    Raises `UserError` if not enough rows have such an answer, or none is left to train on.
    """
    keys = {row.id: xxhash.xxh3_128_hexdigest(text_key(row.text).encode("utf-8")) for row in rows}
    answered = sorted((row for row in rows if _has_answer(row)), key=lambda row: (keys[row.id], row.id))
    chosen = {keys[row.id]: row for row in reversed(answered)}
    held = [chosen[key] for key in sorted(chosen)[:count]]
    taken = {keys[one.id] for one in held}
    kept = tuple(row for row in rows if keys[row.id] not in taken)
    if len(held) < count or not kept:
        raise UserError(
            f"dataset.held_out is {count:,}, but {counted(len(chosen), 'problem')} of {len(rows):,} rows have an answer that"
            " can be compared, and some must be left to train on: lower it"
        )
    return kept, tuple(held)


def _has_answer(row: TrainingRow) -> bool:
    return bool((row.answer or "").strip()) and is_comparable(row.answer or "")
