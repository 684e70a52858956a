"""The user's own problems, which are annotated unchanged: they are not seeds, and nothing is evolved from them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

import xxhash

from tasks.errors import UserError
from tasks.rows import Given, Problem, Role, Tier, problem_id
from tasks.seeds.answer_forms import Gold, is_comparable, read_answers
from tasks.seeds.cells import Unusable, chat_of, json_object
from tasks.seeds.columns import ANNOTATE, Selection, Wording, answer_like, select_columns, value_at
from tasks.seeds.problem_file import REQUIRED, RawProblem, raw_problem, read_rows
from tasks.storage.input_files import Survey, input_digest, input_name, read_records, survey
from tasks.storage.records import Fault, Faults, Record

Answers = Literal["auto", "verbatim"]
"""`auto`: gold answers in a known form are recognised; `verbatim`: they are taken as they are."""

_BEFORE = ("body", "context", "passage", "premise")  # columns that may be the start of the problem

Rows = list[RawProblem]
Notices = list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFile:
    """A file of problems and how it is read. `tier` applies to rows without a tier.

    `records`: its rows, if they were read before, such as those of a data set of the hub, whose id is then the `path`.
    """

    path: Path
    selection: Selection
    survey: Survey
    tier: Tier = Tier.MEDIUM
    licence: str = "unknown"
    answers: Answers = "auto"
    records: tuple[Record, ...] | None = None
    wording: Wording = ANNOTATE

    @property
    def source(self) -> str:
        """The name of the source in every row."""
        return input_name(self.path)

    def identity(self) -> dict[str, object]:
        """Return everything that determines the rows: the file's content and the settings for reading it."""
        return {
            "file": input_digest(self.path), "source": self.source, "columns": self.selection.names(),
            "tier": self.tier.value, "licence": self.licence, "answers": self.answers,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnProblems:
    """The problems of a file: `given` has every row in order, `problems` every different text once, in the order of the first
    occurrences. `notices` describe what was recognised or assumed."""

    problems: tuple[Problem, ...] = ()
    given: tuple[Given, ...] = ()
    notices: tuple[str, ...] = ()


def own_file(
    path: Path, columns: Mapping[str, str] | None = None, tier: str = "medium", licence: str = "unknown",
    answers: str = "auto",
) -> OwnFile:  # fmt: skip
    """Return the file with its columns; those with SURE-Math's names are found without `columns`.

    Raises `UserError` for an unknown tier or target column, for a column that is not in the file, or if there is no text column.
    """
    if tier.strip().lower() not in list(Tier):
        raise UserError(f"TIER is {tier!r}: use one of {', '.join(Tier)}")
    if answers not in get_args(Answers):
        raise UserError(f"ANSWERS is {answers!r}: use one of {', '.join(get_args(Answers))}")
    found = survey(path)
    return OwnFile(
        path=path, selection=select_columns(path, columns or {}, found.columns), survey=found,
        tier=Tier(tier.strip().lower()), licence=licence, answers=cast("Answers", answers),
    )  # fmt: skip


def load(file: OwnFile) -> OwnProblems:
    """Load every row of the file.

    The id of a problem depends only on its text and the file's name, so inserting a line does not change other problems, and a
    text that occurs again is annotated once. Raises `UserError` with all rows that cannot be used, and if no answer of the file
    can be compared with the teacher's.
    """
    rows, notices = read_own(file)
    problems = distinct(file, rows)
    if len(problems) < len(rows):
        notices.append(
            f"{len(rows) - len(problems):,} of {len(rows):,} rows repeat the text of another row, which is annotated once"
        )
    return OwnProblems(
        problems=tuple(problems.values()), given=tuple(_given(file, rows, problems)), notices=tuple(notices)
    )


def read_own(file: OwnFile, left_out: Faults | None = None) -> tuple[list[RawProblem], list[str]]:
    """Return every row of the file, with answers as they are read and settled ids, and notices. Raises the errors of `load`; rows
    that cannot be used are added to `left_out`, if it is given."""
    notices = [*file.survey.notices, *_column_notices(file)]
    records: Iterable[Record | Fault] = read_records(file.path) if file.records is None else file.records

    def read(record: Record) -> RawProblem:
        return raw_problem(record, file.selection, file.tier, REQUIRED)

    rows: Rows = list(read_rows(file.path, records, read, left_out=left_out))
    for step in (_answers_read, _answers_checked, _ids_settled, _solutions_checked):
        rows, more = step(file, rows)
        notices += more
    return rows, notices


# --- notices -----------------------------------------------------------------------------------------------------


def _column_notices(file: OwnFile) -> Notices:
    """Describe chat and list columns, an answer column that is not used, and a column that may be the start of the problem."""
    there, names, notices = file.survey.columns, file.selection.names(), []
    for ours in ("text", "answer"):
        for path in file.selection.paths.get(ours, ()):
            value, column = value_at(there, path), ".".join(path)
            if chat_of(value) is not None:
                last = "user" if ours == "text" else "assistant"
                notices.append(f"column {column!r} has chat messages: the last {last} message is the {ours}")
            elif isinstance(value, list) and ours == "answer":
                notices.append(
                    f"column {column!r} has lists: their entries, joined by commas, are the answer"
                )
    used = {path[0] for paths in file.selection.paths.values() for path in paths}
    unused = {name: value for name, value in there.items() if name not in used}
    text = names["text"]
    if "answer" not in names and (like := answer_like(unused)) is not None:
        named = file.wording.columns({"text": text, "answer": like})
        notices.append(f"no column is used as the answer; if {like!r} is it: {named}")
    for name, value in unused.items():
        if name.strip().lower() in _BEFORE and isinstance(value, str):
            joined = file.wording.columns({"text": f"{name}+{text}"})
            notices.append(f"column {name!r} is not part of the problem; to join it: {joined}")
    return notices


def _lines(rows: Sequence[RawProblem]) -> str:
    shown = ", ".join(row.where for row in rows[:3])
    return f"{shown}, ..." if len(rows) > 3 else shown


# --- steps -------------------------------------------------------------------------------------------------------


def _answers_read(file: OwnFile, rows: Rows) -> tuple[Rows, Notices]:
    """Read gold answers in a known form, and numbers in decimal notation; what was written stays with the row's other columns."""
    if file.answers == "verbatim":
        return rows, []
    golds, notices = read_answers([row.answer for row in rows], decimal_comma=file.survey.delimiter == ";")

    def read(row: RawProblem, gold: Gold) -> RawProblem:
        if gold == Gold(answer=row.answer):
            return row
        others = {file.selection.paths["answer"][0][0]: row.answer, **row.others}
        return replace(row, answer=gold.answer, solution=row.solution or gold.solution, others=others)

    changed = [read(row, gold) for row, gold in zip(rows, golds, strict=True)]
    return changed, [f"{one}; {file.wording.verbatim} takes the column as it is written" for one in notices]


def _answers_checked(file: OwnFile, rows: Rows) -> tuple[Rows, Notices]:
    """Refuse a file whose answers can all not be compared with the teacher's, and describe single ones."""
    known = [row for row in rows if row.answer and row.answer.strip()]
    bad = [row for row in known if not is_comparable(row.answer or "")]
    if not bad:
        return rows, []
    column = file.selection.names()["answer"]
    if len(bad) == len(known):
        raise UserError(
            f"{file.path}: none of the {len(known):,} answers in column {column!r} is a final answer that can be compared, e.g."
            f" {bad[0].where}: {(bad[0].answer or '')[:60]!r}; name a column with final answers, or leave the answer out with"
            f" {file.wording.columns({'text': file.selection.names()['text'], 'answer': ''})}"
        )
    return rows, [
        f"{len(bad):,} of {len(known):,} answers in column {column!r} are sentences or too long ({_lines(bad)}):"
        f" {file.wording.incomparable}"
    ]


def _ids_settled(file: OwnFile, rows: Rows) -> tuple[Rows, Notices]:
    """Replace empty ids, and ids that belong to several texts, by hashes of the text."""
    texts: dict[str | None, set[str]] = defaultdict(set)
    for row in rows:
        texts[row.source_id].add(row.text)
    bad = [row for row in rows if row.source_id is None or len(texts[row.source_id]) > 1]
    lost = {row.line for row in bad}
    column = file.selection.paths["id"][0][0] if "id" in file.selection.paths else ""

    def settled_row(row: RawProblem) -> RawProblem:
        if row.line not in lost:
            return row
        others = {**({column: row.source_id} if row.source_id else {}), **row.others}
        return replace(row, source_id=content_id(row.text), others=others)

    settled = [settled_row(row) for row in rows]
    if not bad or not column:
        return settled, []
    return settled, [
        f"{len(bad):,} of {len(rows):,} ids in column {file.selection.names()['id']!r} are empty or stand for several problems"
        f" ({_lines(bad)}): these rows get an id made from their text"
    ]


def content_id(text: str) -> str:
    """Return the id of a problem without one: a hash of its text."""
    return xxhash.xxh3_64_hexdigest(text.encode("utf-8"))


def _solutions_checked(file: OwnFile, rows: Rows) -> tuple[Rows, Notices]:
    """Describe rows whose solution was found by its name but is no text."""
    column = file.selection.paths["solution"][0][0] if "solution" in file.selection.paths else ""
    bad = [row for row in rows if row.solution is None and row.others.get(column) is not None]
    if not bad:
        return rows, []
    return rows, [
        f"column {column!r} is not text in {len(bad):,} rows ({_lines(bad)}): they have no solution"
    ]


# --- rows --------------------------------------------------------------------------------------------------------


def distinct(file: OwnFile, rows: Sequence[RawProblem]) -> dict[str, Problem]:
    """Return one problem per text, with the first answer and solution that a row with this text has."""
    found: dict[str, Problem] = {}
    for row in rows:
        row_id = problem_id(source=file.source, origin="", strategy="", text=row.text)
        old = found.get(row.text)
        found[row.text] = Problem(
            id=row_id,
            text=row.text,
            tier=row.tier if old is None else old.tier,
            source=file.source,
            source_id=row.source_id or "" if old is None else old.source_id,
            licence=file.licence,
            role=Role.GIVEN,
            root_id=row_id,
            answer=_answer(row) if old is None or old.answer is None else old.answer,
            solution=row.solution if old is None or old.solution is None else old.solution,
        )
    return found


def _answer(row: RawProblem) -> str | None:
    return row.answer if row.answer and row.answer.strip() else None


def _given(file: OwnFile, rows: Rows, problems: Mapping[str, Problem]) -> Iterator[Given]:
    """Yield the exported rows. The first row of a text has the id of its problem; those that repeat it have ids of their own."""
    seen: Counter[str] = Counter()
    faults = Faults(file.path)
    for position, row in enumerate(rows):
        problem, copy = problems[row.text], seen[row.text]
        seen[row.text] += 1
        repeated = problem_id(source=file.source, origin=str(copy), strategy="", text=row.text)
        kept = row.others
        if row.solution is not None and "solution" not in row.others:
            kept = {**kept, "solution": row.solution}
        try:
            extra = json_object(kept) if kept else None
        except Unusable as error:
            faults.add(f"{row.where} {error}.")
            continue
        yield Given(
            id=problem.id if copy == 0 else repeated,
            problem_id=problem.id,
            position=position,
            source_id=row.source_id or "",
            tier=row.tier,
            answer=_answer(row),
            extra=extra,
        )
    faults.raise_any()
